"""Whether a training fits into memory: estimated before it starts, held against what is left.

An estimate is made to lie above what is measured (usually by a half; where
tuning is cut short, by up to three times): the constants are those of the
whole process's peak, what its allocator keeps included.
"""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import psutil

from reckeeper import linalg, machine, ranking, storage
from reckeeper.config import Settings
from reckeeper.errors import Action, DataError, MemoryLimitError
from reckeeper.machine import human_bytes
from reckeeper.recipes import Footprint, Sizes, recipe_named
from reckeeper.training.folds import n_folds

_PROCESS = 260_000_000
"""Interpreter and libraries, and a batch of interactions on its way."""

_ID = 400
"""Bytes an id comes to, in lists, dictionaries, and the bytes of a file."""

_LOG = 25
"""Bytes an interaction has in an `InteractionLog`."""

_SORTED = 35
_SPLIT = 75
"""Bytes an interaction, and a pair, come to while a log is cut in two and both sides are summed."""

_PAIR = 24
"""Bytes a pair has in an `InteractionMatrix`, its order counted."""

_TABLE_CELL = 20
"""Bytes a cell comes to while the table of predictions is made and written."""


class Estimate(int):
    """The bytes that a training will hold at most, and what they go to.

    Parameters
    ----------
    stage : str
        Where the peak is: ``tuning``, ``judging``, ``fitting`` or ``writing``.
    parts : mapping of str to int
        What is held there, in words, with the bytes of each, which make the sum.
    """

    stage: str
    parts: Mapping[str, int]

    def __new__(cls, stage: str, parts: Mapping[str, int]) -> Self:
        """Sum the parts, and keep them with the largest first."""
        made = super().__new__(cls, sum(parts.values()))
        made.stage = stage
        made.parts = dict(sorted(parts.items(), key=lambda part: -part[1]))
        return made


def estimate(
    recipe: str,
    settings: Mapping[str, object],
    *,
    n_interactions: int,
    n_users: int,
    n_items: int,
    n_pairs: int | None = None,
    tune: bool = False,
    cell_limit: int = 0,
    active: storage.Version | None = None,
) -> Estimate:
    """Estimate the peak of the resident memory of the process that trains.

    Parameters
    ----------
    recipe : str
    settings : mapping
        The recipe's; where it is tuned, the largest that tuning may choose
        is taken instead.
    n_interactions, n_users, n_items : int
        Sizes of what is read, from 0 on.
    n_pairs : int, optional
        Distinct pairs of a user and an item; not known, it is as many as
        there can be.
    tune : bool
        Whether settings are to be found.
    cell_limit : int
        Users × items up to which the pickle carries a table of predictions.
    active : storage.Version, optional
        The active version, which is loaded to be judged, and perhaps
        fitted again.

    Returns
    -------
    Estimate

    Raises
    ------
    DataError
        There is no such recipe, or a setting is out of range.

    Notes
    -----
    Measured peaks of all recipes, from 0.1 to 5.5 million interactions, lie
    between two fifths of it and all of it.
    """
    largest_pairs = min(n_interactions, n_users * n_items)
    n_pairs = largest_pairs if n_pairs is None else min(n_pairs, largest_pairs)
    sizes = Sizes(n_users, n_items, n_pairs, linalg.parallel.n_cores())
    made = recipe_named(recipe)
    if tune:
        settings = made.largest_settings(sizes)
    footprint = made.footprint(sizes, settings=settings)
    other, loaded = Footprint(0, 0), 0
    if active is not None:
        # One that this release does not know is not judged: no reason to refuse a retrain.
        with contextlib.suppress(DataError):
            other = recipe_named(active.recipe).footprint(sizes, settings=active.settings)
        n_ids = active.n_users + active.n_items
        loaded = int(1.3 * active.native_bytes) + _ID * n_ids

    n_cells = n_users * n_items
    scoring = ranking.bytes_needed(n_users=n_users, n_items=n_items)
    table = _TABLE_CELL * n_cells if n_cells <= cell_limit else 0
    fit = "the recipe's fit"
    # Beside the log the one that it was chosen from, or that the active version saw.
    log = (2 * _LOG + _SORTED) * n_interactions + _SPLIT * n_pairs
    held = {"the process": _PROCESS, "ids": _ID * (n_users + n_items)}
    stages = {
        "judging": {
            "interactions": log,
            "the active version": loaded,
            fit: max(
                footprint.fit_bytes,
                other.fit_bytes,
                max(footprint.model_bytes, other.model_bytes) + scoring,
            ),
        },
        "fitting": {
            "interactions": (_LOG + _SORTED) * n_interactions + 2 * _PAIR * n_pairs,
            fit: footprint.fit_bytes,
        },
        "writing": {
            "interactions": 2 * _PAIR * n_pairs,
            # The native file is made whole in memory before it is written.
            "the model and its files": 2 * footprint.model_bytes + table,
        },
    }
    if tune:
        n_splits = n_folds(n_users)
        stages["tuning"] = {
            "interactions": log + _LOG * n_interactions + n_splits * 2 * _PAIR * n_pairs,
            "tuning": made.tuning_bytes(sizes, n_splits=n_splits),
        }
    return max(Estimate(stage, held | parts) for stage, parts in stages.items())


def available(*, root: Path = Path("/")) -> int:
    """Return how many bytes this process may hold: what is free, and what it holds already.

    Parameters
    ----------
    root : Path
        As of `machine.free_memory`.
    """
    return machine.free_memory(root=root) + int(psutil.Process().memory_info().rss)


def check(estimated: Estimate, settings: Settings) -> None:
    """Refuse a training that does not fit.

    Parameters
    ----------
    estimated : Estimate
    settings : Settings
        Its `training_memory_bytes`, if set, stands in place of `available`.

    Raises
    ------
    MemoryLimitError
        The message has what is needed and what there is, what drives it and
        what to do; ``details`` has the numbers.
    """
    limit = settings.training_memory_bytes
    left = available() if limit is None else limit
    if estimated <= left:
        return
    there_is = (
        f"{human_bytes(left)} are free"
        if limit is None
        else f"RECKEEPER_TRAINING_MEMORY_BYTES allows {human_bytes(left)}"
    )
    drivers = [f"{name} {human_bytes(n_bytes)}" for name, n_bytes in estimated.parts.items()][:3]
    raise MemoryLimitError(
        f"This training needs about {human_bytes(estimated)} of memory, and {there_is}. Most, "
        f"while {estimated.stage}: {', '.join(drivers)}. Ask for fewer components or neighbours, "
        "or for another recipe; or train on less: a training window, or a cap of interactions "
        "per user, in the policy. Otherwise give the worker more memory; "
        "RECKEEPER_TRAINING_MEMORY_BYTES sets what a job may need.",
        details={
            "needed_bytes": estimated,
            "available_bytes": left,
            "stage": estimated.stage,
            "parts": dict(estimated.parts),
        },
        action=Action("change_policy"),
    )
