"""The worker: a Flask program that reads Kafka, runs jobs and keeps the schedule."""
