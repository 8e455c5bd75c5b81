"""Training: the pipeline, the gate, the jobs that run them, and the policy that starts them."""

from reckeeper.training.comparison import compare as compare_versions
from reckeeper.training.jobs import (
    JobRunner,
    describe_job,
    expire_silent,
    find_job,
    request_cancel,
    request_finish,
)
from reckeeper.training.pipeline import RetrainRequest, checked_request
from reckeeper.training.policy import Policy, PolicyWatch, StoredPolicy
from reckeeper.training.policy import current as current_policy
from reckeeper.training.policy import describe as describe_policy
from reckeeper.training.policy import first as first_policy
from reckeeper.training.policy import store as store_policy
from reckeeper.training.schedule import Schedule, next_run
from reckeeper.training.webhook import Courier

__all__ = [
    "Courier",
    "JobRunner",
    "Policy",
    "PolicyWatch",
    "RetrainRequest",
    "Schedule",
    "StoredPolicy",
    "checked_request",
    "compare_versions",
    "current_policy",
    "describe_job",
    "describe_policy",
    "expire_silent",
    "find_job",
    "first_policy",
    "next_run",
    "request_cancel",
    "request_finish",
    "store_policy",
]
