"""Interactions through Kafka: onto the topic, into the table, and what was refused."""

from reckeeper.events.kafka.consumer import KafkaReader
from reckeeper.events.kafka.producer import KafkaWriter

__all__ = ["KafkaReader", "KafkaWriter"]
