"""The interaction matrix: external ids, dense indices, weights."""

from reckeeper.matrix.choice import build, choose, row_of_history
from reckeeper.matrix.log import IdIndex, InteractionLog, InteractionMatrix, Pairs, read_log

__all__ = [
    "IdIndex",
    "InteractionLog",
    "InteractionMatrix",
    "Pairs",
    "build",
    "choose",
    "read_log",
    "row_of_history",
]
