"""When to retrain, what goes in, and who decides: the policy in force, and those before it."""

from reckeeper.policy.content import Policy, Promotion, RecommendationPolicy
from reckeeper.policy.cron import last_run, next_run
from reckeeper.policy.revisions import (
    MASK,
    StoredPolicy,
    current,
    describe,
    first,
    history,
    store,
)
from reckeeper.policy.watch import PolicyWatch

__all__ = [
    "MASK",
    "Policy",
    "PolicyWatch",
    "Promotion",
    "RecommendationPolicy",
    "StoredPolicy",
    "current",
    "describe",
    "first",
    "history",
    "last_run",
    "next_run",
    "store",
]
