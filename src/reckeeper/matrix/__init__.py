"""The interaction matrix: external ids, dense indices, weights, order."""

from reckeeper.matrix.choice import build, choose, row_of_history
from reckeeper.matrix.histories import Histories
from reckeeper.matrix.log import IdIndex, InteractionLog, InteractionMatrix, Pairs, read_log

__all__ = [
    "Histories",
    "IdIndex",
    "InteractionLog",
    "InteractionMatrix",
    "Pairs",
    "build",
    "choose",
    "read_log",
    "row_of_history",
]
