"""What recipes hold in memory, estimated from sizes alone."""

from dataclasses import dataclass


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
