"""Whether order helps, found out on the newest part of the training data."""

import dataclasses
from collections.abc import Callable

import numpy as np

from reckeeper.recipes.plan import TuningSplit
from reckeeper.recipes.spectral.factors import Weighted
from reckeeper.recipes.spectral.parts import Plain, Uncut, ordered_part
from reckeeper.recipes.spectral.settings import DEFAULT_ORDER, SpectralSettings

_CELLS = 8_000_000
_USERS = (150, 1000)
"""Users of whom what came last is asked for: as many as make so many cells of one score each,
within limits. Each comes to some questions."""

COMPONENTS = 64
"""Components that the check takes at most: order adds as much to a coarser plain part."""

_LEAST_USERS = 10
"""Fewer tell nothing."""

_CONFIDENCE = 2.0
"""Standard errors that the gain must be above."""


def order_helps(
    split: TuningSplit,
    settings: SpectralSettings,
    *,
    on_progress: Callable[[float], None] | None = None,
) -> bool:
    """Say whether order and recency find what came next better than the plain part does.

    Parameters
    ----------
    split : TuningSplit
        Of kind ``next``.
    settings : SpectralSettings
        Those of the plain part, recency and the power; the order is the default.
    on_progress : callable, optional
        Called with the fraction done; what it raises ends the check.

    Returns
    -------
    bool
        Whether the mean difference of NDCG over users is above two of its
        standard errors.

    Notes
    -----
    One decomposition, and no collapse: a few histories are scored by the parts.
    """
    report = on_progress or (lambda _: None)
    settings = dataclasses.replace(
        settings, order=DEFAULT_ORDER, n_components=min(settings.n_components, COMPONENTS)
    )
    weighted = Weighted.of(split.train.weights, settings.weighting)
    factors = weighted.factorise(
        user_power=settings.user_power,
        item_power=settings.item_power,
        n_components=settings.n_components,
        on_progress=lambda fraction: report(0.4 * fraction),
    )
    plain = Plain.of(weighted, factors, settings)
    ordered = ordered_part(settings, split.train.histories, weighted, factors, plain)
    report(0.5)
    if ordered is None:
        return False
    judge = split.judge(n_users=int(np.clip(_CELLS // plain.n_items, *_USERS)))
    scorer = Uncut.of(settings, weighted, plain)
    without = judge.ndcg(scorer)
    report(0.75)
    gains = judge.ndcg(scorer.with_order(settings, ordered)) - without
    report(1.0)
    return surely_positive(gains)


def surely_positive(gains: np.ndarray) -> bool:
    """Say whether the mean of users' gains is above two of its standard errors."""
    if len(gains) < _LEAST_USERS:
        return False
    return bool(gains.mean() > _CONFIDENCE * gains.std(ddof=1) / np.sqrt(len(gains)))
