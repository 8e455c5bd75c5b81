"""How good a model is: splits of the interactions, ranking metrics, and how sure they are."""

from reckeeper.evaluation.canonical import canonical, canonical_together
from reckeeper.evaluation.growing import split_newer, split_next
from reckeeper.evaluation.metrics import Figure, Quality, measure, measure_split, ndcg, pool
from reckeeper.evaluation.paired import Compared, PairedDifference, compare, compare_all
from reckeeper.evaluation.pooling import (
    LEAST_JUDGED,
    POOL_BELOW,
    how_pooled,
    pooled_default,
    pooled_splits,
)
from reckeeper.evaluation.segments import by_history_length, by_item_popularity
from reckeeper.evaluation.splits import Split, is_timed, split_random, split_time, split_user_time

__all__ = [
    "LEAST_JUDGED",
    "POOL_BELOW",
    "Compared",
    "Figure",
    "PairedDifference",
    "Quality",
    "Split",
    "by_history_length",
    "by_item_popularity",
    "canonical",
    "canonical_together",
    "compare",
    "compare_all",
    "how_pooled",
    "is_timed",
    "measure",
    "measure_split",
    "ndcg",
    "pool",
    "pooled_default",
    "pooled_splits",
    "split_newer",
    "split_next",
    "split_random",
    "split_time",
    "split_user_time",
]
