"""What recipes hold in memory, estimated from sizes alone."""

import math
from dataclasses import dataclass

_SAMPLED = 2048
"""Columns of which `linalg.item_filter` guesses a bound for each row."""

_ENTRY = 76
"""Bytes an entry over that bound comes to: in the blocks, their join, and the rows done again."""

_ENTRY_WITHOUT_BOUND = 44
"""The same where there is no bound, and no row to do again."""

_CELL = 48
"""Bytes a cell of the block that a thread works on comes to."""


@dataclass(frozen=True)
class Footprint:
    """An estimate of what a recipe holds in memory, besides the interactions.

    Attributes
    ----------
    fit_bytes : int
        While it is fitted, at most; what is left then is in it.
    model_bytes : int
        Afterwards.
    """

    fit_bytes: int
    model_bytes: int


def decomposition_bytes(*, n_users: int, n_items: int, n_pairs: int, n_components: int) -> int:
    """Return what `linalg.truncated_svd` holds at most, its matrix not counted.

    That is the matrix twice, its basis on the smaller side, and the iterates
    on both.
    """
    small, large = sorted((n_users, n_items))
    n_vectors = n_components + max(8, n_components // 16)
    if 2 * n_vectors > small:
        dense = 4 * small * small + 2 * n_components * (n_users + n_items)
        return 24 * n_pairs + 8 * dense
    basis = min(small, max(24 * 64, int(1.5 * n_vectors) + 64))
    lanczos = small * (basis + 2 * n_vectors) + 8 * basis * basis
    iteration = n_vectors * (5 * small + 3 * large)
    return 24 * n_pairs + 4 * max(lanczos, iteration)


def collapse_bytes(
    *,
    n_users: int,
    n_items: int,
    n_pairs: int,
    n_components: int,
    n_neighbours: int,
    n_threads: int,
) -> int:
    """Return what `linalg.item_filter` holds at most, its matrix and components not counted.

    Parameters
    ----------
    n_neighbours : int
        At most `n_items`.
    n_threads : int
        Each works on a block of its own.
    """
    if not n_items or not n_users:
        return 0
    copies = 24 * n_pairs
    if not n_components:
        # Pairs of items that users have in common; those with long histories make most of them.
        met = 4 * (n_pairs / n_items) * (n_pairs / n_users)
        block = min(512, n_items) * min(n_items, int(met))
        return copies + n_threads * _CELL * block + 2 * 8 * n_items * n_neighbours
    height = min(n_items, max(256, min(2048, -(-n_items // 8))))
    blocks = n_threads * _CELL * height * height + 4 * n_components * n_items
    if n_neighbours * 4 < n_items and n_items > 4 * _SAMPLED:
        expected = n_neighbours * _SAMPLED / n_items
        rank = int(expected + 3 * math.sqrt(expected)) + 1
        return copies + blocks + _ENTRY * n_items * (rank * n_items // _SAMPLED)
    return copies + blocks + _ENTRY_WITHOUT_BOUND * n_items * n_items
