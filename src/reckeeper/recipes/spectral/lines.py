"""A search along a line, for tuning: uphill in steps, then to the top of a parabola."""

from collections.abc import Callable
from dataclasses import dataclass

_CLOSE = 0.15
"""How near to what was tried nothing is tried, in steps."""


@dataclass(frozen=True)
class Axis:
    """A direction to search along, with the others held.

    Attributes
    ----------
    low, high : float
    step : float
        Of a coarse search.
    unit : float
        What counts as one unit of distance from the defaults.
    """

    low: float
    high: float
    step: float
    unit: float


def climb(
    value: Callable[[float], float],
    start: float,
    axis: Axis,
    fineness: float,
    *,
    most_steps: int = 5,
) -> None:
    """Go uphill from a place, then to the top of a parabola through the best three.

    Parameters
    ----------
    value : callable
        How good a place is; asked for again where it has been asked.
    start : float
    axis : Axis
    fineness : float
        A step is that of the axis times this.
    most_steps : int
        In the direction that is better.
    """
    step = axis.step * fineness
    seen: set[float] = set()

    def at(place: float) -> float:
        place = min(max(place, axis.low), axis.high)
        seen.add(place)
        return value(place)

    here = at(start)
    ahead = step if at(start + step) > here else -step
    place = start
    for _ in range(most_steps):
        last, here = here, at(place + ahead)
        if here <= last:
            break
        place += ahead
    top = _top_of_parabola([(place, value(place)) for place in sorted(seen, key=value)[-3:]])
    if top is not None:
        top = min(max(top, min(seen)), max(seen))
        if min(abs(top - place) for place in seen) > _CLOSE * step:
            at(top)


def _top_of_parabola(points: list[tuple[float, float]]) -> float | None:
    """Return where a parabola through three points is highest; None where it is not."""
    if len(points) < 3:
        return None
    (x1, y1), (x2, y2), (x3, y3) = sorted(points)
    left, right = (y2 - y1) / (x2 - x1), (y3 - y2) / (x3 - x2)
    curvature = (right - left) / (x3 - x1)
    if curvature >= 0:
        return None
    return (x1 + x2) / 2 - left / (2 * curvature)
