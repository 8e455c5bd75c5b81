"""The interaction matrix: external ids, dense indices, weights, order."""

from reckeeper.matrix.choice import SummedRow, build, choose, left_in, sum_row
from reckeeper.matrix.histories import Histories, with_entries
from reckeeper.matrix.log import (
    LISTINGS,
    IdIndex,
    InteractionLog,
    InteractionMatrix,
    Pairs,
    read_log,
)

__all__ = [
    "LISTINGS",
    "Histories",
    "IdIndex",
    "InteractionLog",
    "InteractionMatrix",
    "Pairs",
    "SummedRow",
    "build",
    "choose",
    "left_in",
    "read_log",
    "sum_row",
    "with_entries",
]
