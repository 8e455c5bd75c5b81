"""Training: the pipeline, the jobs that run it, and the schedule."""

from reckeeper.training.jobs import (
    JobRunner,
    describe_job,
    expire_silent,
    find_job,
    request_finish,
)
from reckeeper.training.pipeline import RetrainRequest, checked_request
from reckeeper.training.schedule import Schedule, next_run

__all__ = [
    "JobRunner",
    "RetrainRequest",
    "Schedule",
    "checked_request",
    "describe_job",
    "expire_silent",
    "find_job",
    "next_run",
    "request_finish",
]
