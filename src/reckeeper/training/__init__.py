"""Training: the pipeline, the gate, the jobs that run them, and the policy that starts them."""

from reckeeper.training.comparison import Today
from reckeeper.training.jobs import (
    describe_job,
    describe_listed,
    expire_silent,
    find_job,
    offer,
    request_cancel,
    request_finish,
    withdraw,
)
from reckeeper.training.recipe_comparison import today
from reckeeper.training.request import check_taste, checked_request
from reckeeper.training.runner import JobRunner
from reckeeper.training.schedule import Schedule

__all__ = [
    "JobRunner",
    "Schedule",
    "Today",
    "check_taste",
    "checked_request",
    "describe_job",
    "describe_listed",
    "expire_silent",
    "find_job",
    "offer",
    "request_cancel",
    "request_finish",
    "today",
    "withdraw",
]
