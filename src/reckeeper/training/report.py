"""What a run reports while it lasts: its stage, and what it has found so far."""

from typing import Protocol

from reckeeper.training.comparison import Comparison
from reckeeper.training.tuning import TuningProgress
from reckeeper.training.verdict import Verdict

TUNING = "tuning"
"""The stage in which a job can be asked to finish."""


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
