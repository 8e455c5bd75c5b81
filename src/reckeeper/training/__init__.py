"""Training: the pipeline, the jobs that run it, and the schedule."""

from reckeeper.training.jobs import JobRunner, describe_job, expire_silent
from reckeeper.training.schedule import Schedule, next_run

__all__ = ["JobRunner", "Schedule", "describe_job", "expire_silent", "next_run"]
