"""How good a model is: splits of the interactions, ranking metrics, and how sure they are."""

from reckeeper.evaluation.metrics import Quality, measure, ndcg
from reckeeper.evaluation.paired import compare
from reckeeper.evaluation.splits import (
    Split,
    split_at,
    split_random,
    split_time,
    split_user_time,
)

__all__ = [
    "Quality",
    "Split",
    "compare",
    "measure",
    "ndcg",
    "split_at",
    "split_random",
    "split_time",
    "split_user_time",
]
