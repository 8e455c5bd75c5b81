"""What a run reports while it lasts: its stage, and what it has found so far."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from reckeeper.training.tuning import TuningProgress
from reckeeper.training.verdict import Difference, Metric, Verdict, metrics_to_json
from reckeeper.wire import JsonObject

TUNING = "tuning"
"""The stage in which a job can be asked to finish."""


@dataclass(frozen=True)
class MeasuredRecipe:
    """How a recipe did on what was held out.

    Attributes
    ----------
    recipe : str
    settings : mapping
        Complete, as JSON values.
    tuned : bool
        Whether tuning has found them.
    fit_seconds, tune_seconds : float
    metrics : mapping of str to Metric
    versus_popularity : mapping of str to Difference
    """

    recipe: str
    settings: JsonObject
    tuned: bool
    fit_seconds: float
    tune_seconds: float
    metrics: Mapping[str, Metric]
    versus_popularity: Mapping[str, Difference]


@dataclass(frozen=True)
class Comparison:
    """Recipes measured on one split, on the same users.

    Attributes
    ----------
    split : str
        Its kind.
    k : int
        Length of the lists.
    n_users : int
        Users measured.
    recipes : tuple of MeasuredRecipe
        In the order of measuring, the baseline first.
    """

    split: str
    k: int
    n_users: int = 0
    recipes: tuple[MeasuredRecipe, ...] = ()

    def to_json(self) -> JsonObject:
        """Return the comparison in JSON values, as a job's row and the API have it."""
        told = dataclasses.asdict(self)
        told["recipes"] = [
            {**row, "metrics": metrics_to_json(measured.metrics)}
            for row, measured in zip(told["recipes"], self.recipes, strict=True)
        ]
        return told


class Report(Protocol):
    """Takes note of how far a run is; what it raises ends the run."""

    def __call__(
        self,
        stage: str,
        fraction: float,
        *,
        progress: TuningProgress | None = None,
        result: Comparison | None = None,
        estimated_memory_bytes: int | None = None,
        verdict: Verdict | None = None,
    ) -> None:
        """Take note.

        Parameters
        ----------
        stage : str
        fraction : float
            Share of the whole run that is done, in [0, 1].
        progress : TuningProgress, optional
            What tuning has found so far.
        result : Comparison, optional
            What an evaluation has measured so far.
        estimated_memory_bytes : int, optional
            What the run will need.
        verdict : Verdict, optional
            What the gate found.
        """
        ...
