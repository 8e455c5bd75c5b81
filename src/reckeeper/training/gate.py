"""The gate: is a candidate worse than the active version, on interactions that neither has seen?"""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from reckeeper import __version__, clock, evaluation, storage
from reckeeper.errors import DataError, NotEnoughDataError
from reckeeper.evaluation import Quality, Split, segments
from reckeeper.matrix import InteractionLog
from reckeeper.policy import Policy
from reckeeper.ranking import Ranker
from reckeeper.registry import ActiveModel
from reckeeper.training import drift, fitting
from reckeeper.training.comparison import BASELINE
from reckeeper.training.request import has_same_settings
from reckeeper.training.verdict import SegmentKind, Verdict
from reckeeper.training.weighing import Measured, MeasuredSegment, weighed

Method = Literal["new_interactions", "refit"]

_CELLS = 25_000_000
_USERS = (2_000, 20_000)
"""Users that are judged: as many as make so many cells of scores, within limits. Where there are
more, so many are drawn at random."""


@dataclass(frozen=True)
class HeldOut:
    """What a candidate is to be judged on, and what it may learn from.

    Attributes
    ----------
    splits : tuple of Split
        Of `log`; where one would judge few users, several that are pooled. A
        single one of the kind ``new`` holds out what came after the active
        version. None where there is nothing to split.
    active : storage.Version or None
        The active version.
    log : InteractionLog
        In canonical order.
    """

    splits: tuple[Split, ...]
    active: storage.Version | None
    log: InteractionLog = field(repr=False)

    @property
    def is_newer(self) -> bool:
        """Whether what came after the active version is held out."""
        return bool(self.splits) and self.splits[0].kind == "new"

    @property
    def training_log(self) -> InteractionLog:
        """What may be known before the judging, such as by tuning: a copy, made at each call.

        Nothing that any of the splits holds out or leaves out.
        """
        if not self.splits:
            return self.log
        return self.log.part(np.logical_and.reduce([split.keep for split in self.splits]))

    def users(self, policy: Policy, *, seed: int) -> np.ndarray:
        """Return whom to judge: the users of whom a split asks, or so many of them drawn."""
        users = np.unique(np.concatenate([split.judged for split in self.splits]))
        most = _most_users(self.log, policy)
        if len(users) > most:
            users = np.random.default_rng(seed).choice(users, most, replace=False)
        return users


@dataclass(frozen=True)
class Candidate:
    """A model that is to be fitted, and is judged before.

    Attributes
    ----------
    recipe : str
    settings : dict
    log : InteractionLog
        All that it will be fitted on in the end.
    is_automatic : bool
        Nobody watches: a fall of the data is a reason to reject.
    """

    recipe: str
    settings: Mapping[str, object]
    log: InteractionLog = field(repr=False)
    is_automatic: bool


def hold_out(
    log: InteractionLog,
    *,
    n_seen: int,
    active: storage.Version | None,
    policy: Policy,
    seen: InteractionLog | None = None,
    tunes: bool = False,
    seed: int = 0,
) -> HeldOut:
    """Decide what is held out.

    That is what came after the active version, where the policy's numbers of
    interactions and of users are reached; else what `evaluation.pooled_default`
    holds out: where there are times, the last fifth of the interactions, each
    asked for from the history just before it; else a random fifth of each
    user's.

    Parameters
    ----------
    log : InteractionLog
        All that the policy lets into training. In whatever order its rows
        stand, and whatever the ids: the result is the same.
    n_seen : int
        How many of them the active version could have seen: the first ones.
    active : storage.Version or None
        The active version.
    policy : Policy
    seen : InteractionLog, optional
        What the policy would have let into training when there was no more
        than the active version has seen. By default the first `n_seen` of
        `log`: right where the policy has neither window nor cap, which would
        leave a candidate less than the active version had.
    tunes : bool
        Whether settings are to be found on what is not held out. Then there is
        one cut: what is left by several would be too little.
    seed : int
        For what is drawn at random.
    """
    n_newer = len(log) - n_seen
    if active is not None and n_seen > 0 and n_newer >= policy.min_new_interactions:
        joined = log if seen is None else _continued(seen, log.part(slice(n_seen, None)))
        is_newer = np.arange(len(joined)) >= (n_seen if seen is None else len(seen))
        joined, places = evaluation.canonical(joined, is_newer=is_newer)
        most = _most_users(joined, policy)
        split = evaluation.split_newer(joined, is_newer[places], seed=seed, max_users=most)
        if len(split.judged) >= policy.min_users:
            return HeldOut((split,), active, joined)
    if not len(log):
        return HeldOut((), active, log)
    log, _ = evaluation.canonical(log)
    splits = evaluation.pooled_default(
        log,
        seed=seed,
        below=0 if tunes else evaluation.POOL_BELOW,
        max_users=_most_users(log, policy),
    )
    return HeldOut(splits, active, log)


def _most_users(log: InteractionLog, policy: Policy) -> int:
    """Return how many users are judged at most."""
    most = int(np.clip(_CELLS // max(1, len(log.items)), *_USERS))
    return max(most, policy.min_users)


def judge(
    candidate: Candidate,
    held_out: HeldOut,
    *,
    active: ActiveModel | None,
    previous: storage.Version | None,
    policy: Policy,
    report: Callable[[float], None],
    seed: int = 0,
) -> Verdict:
    """Fit a candidate without what is held out, and see how it finds that.

    On newer interactions the active version answers itself. Otherwise its
    recipe and settings are fitted again, on what the candidate is fitted on.
    Where recipe and settings are the candidate's own, and the interactions to
    learn from are those of the active version, the two are one model: nothing
    is compared, and only popularity is left as a measure, and the coverage
    that the active version had when it was judged in the same way.

    Parameters
    ----------
    candidate : Candidate
    held_out : HeldOut
    active : ActiveModel or None
        The active version in memory; None if there is none or it cannot be
        loaded.
    previous : storage.Version or None
        The version that was trained last.
    policy : Policy
    report : callable
        Called with the fraction done, in [0, 1]. What it raises ends it.
    seed : int
        For the users drawn and the confidence intervals.

    Notes
    -----
    Repeatable by seed, apart from the seconds. Data on which nothing can be
    fitted or measured is no error here: a warning says so.
    """
    began = time.perf_counter()
    data, falls = drift.since(previous, candidate.log, policy=policy)
    verdict = Verdict(
        decision="promote",
        standing="not_compared",
        sentence="",
        decided_at=0,
        reasons=falls if candidate.is_automatic else (),
        warnings=() if candidate.is_automatic else falls,
        metric=policy.metric,
        margin=policy.margin,
        k=policy.k,
        active_version=None if held_out.active is None else held_out.active.version,
        data=data,
    )
    try:
        measured = _measure(
            candidate, held_out, active=active, policy=policy, seed=seed, report=report
        )
    except DataError as exc:
        sentence = f"Nothing could be measured. {exc.message}"
        verdict = dataclasses.replace(
            verdict, sentence=sentence, warnings=(*verdict.warnings, sentence)
        )
    else:
        if measured.method == "refit" and drift.differ(held_out.active, policy):
            warning = (
                f"Interactions are weighed or chosen otherwise than for version "
                f"{verdict.active_version}. What that changes shows on newer interactions alone."
            )
            verdict = dataclasses.replace(verdict, warnings=(*verdict.warnings, warning))
        verdict = weighed(verdict, measured, recipe=candidate.recipe, policy=policy)
    if held_out.active is None:
        verdict = dataclasses.replace(
            verdict, reasons=(), warnings=verdict.warnings + verdict.reasons
        )
    report(1.0)
    return dataclasses.replace(
        verdict,
        decision="reject" if verdict.reasons else "promote",
        seconds=round(time.perf_counter() - began, 3),
        decided_at=clock.now(),
    )


# What is measured

_Make = Callable[[Split, Callable[[float], None]], Ranker]
"""Makes a model's ranker for a split, and reports how far it is."""


def _measure(
    candidate: Candidate,
    held_out: HeldOut,
    *,
    active: ActiveModel | None,
    policy: Policy,
    seed: int,
    report: Callable[[float], None],
) -> Measured:
    """Fit and measure the candidate, popularity, and what is to be had of the active version.

    Raises
    ------
    DataError
        There is nobody to judge, or the candidate or popularity cannot be
        fitted or measured.
    """
    row = held_out.active
    if not held_out.splits:
        raise NotEnoughDataError("There are no interactions.")
    measuring = _Measuring(
        held_out.splits,
        users=held_out.users(policy, seed=seed),
        k=policy.k,
        seed=seed,
        report=report,
    )
    ours = _fitted(candidate.recipe, candidate.settings, held_out.log)
    popular = _fitted(BASELINE, {}, held_out.log)
    if row is None:
        return measuring.compared("refit", measuring(ours, 0), measuring(popular, 1))

    is_same = has_same_settings(row, candidate.recipe, candidate.settings)
    beside = None if is_same else _fitted(row.recipe, row.settings, held_out.log)
    method: Method = "refit"
    if active is not None and held_out.is_newer:
        method = "new_interactions"
        beside = _loaded(active)
        if is_same and _is_of(row, held_out):
            ours = beside

    quality, popularity = measuring(ours, 0), measuring(popular, 1)
    if beside is None:
        then = _coverage_then(row, k=policy.k, n_users=len(quality.user_index))
        return measuring.compared(method, quality, popularity, coverage=then)
    try:
        theirs = quality if ours is beside else measuring(beside, 2)
    except DataError as exc:
        problem = f"Version {row.version} could not be measured beside it: {exc.message}"
        return measuring.compared(method, quality, popularity, problem=problem)
    coverage = theirs.of_lists[f"coverage@{policy.k}"]
    if is_same and np.array_equal(quality.found, theirs.found):
        return measuring.compared(method, quality, popularity, coverage=coverage)
    return measuring.compared(method, quality, popularity, theirs, coverage=coverage)


def _fitted(recipe: str, settings: Mapping[str, object], log: InteractionLog) -> _Make:
    """Return what fits a recipe without what a split of a log holds out."""
    return lambda split, tell: Ranker.of(
        fitting.fit(recipe, settings, lambda: log.part(split.keep), split.train, on_progress=tell),
        split.train,
    )


def _loaded(active: ActiveModel) -> _Make:
    """Return what gives a version as it is in memory, which may know other items."""
    artifact = active.artifact
    ranker = Ranker.of(artifact.model, artifact)
    return lambda split, _: ranker.in_ids_of(split.train.items, own=artifact.items)


class _Measuring:
    """Measures models on the same splits, all on the same users, and reports how far it is."""

    def __init__(
        self,
        splits: tuple[Split, ...],
        *,
        users: np.ndarray,
        k: int,
        seed: int,
        report: Callable[[float], None],
    ) -> None:
        self._k = k
        self._seed = seed
        self._report = report
        self._users = users
        asked = [split for split in splits if np.isin(split.judged, users).any()]
        self._splits = tuple(asked) or splits

    def __call__(self, make: _Make, step: int) -> Quality:
        """Make a model on each split and measure it, as one of three steps."""
        n = len(self._splits)

        def tell(number: int, half: int, done: float) -> None:
            self._report((step + (number + (half + done) / 2) / n) / 3)

        qualities = []
        for number, split in enumerate(self._splits):
            ranker = make(split, functools.partial(tell, number, 0))
            quality = evaluation.measure_split(
                ranker,
                split,
                user_index=np.intersect1d(self._users, split.judged),
                k=self._k,
                on_progress=functools.partial(tell, number, 1),
            )
            qualities.append(quality)
        return evaluation.pool(qualities)

    def compared(
        self,
        method: Method,
        candidate: Quality,
        popularity: Quality,
        active: Quality | None = None,
        *,
        coverage: float | None = None,
        problem: str | None = None,
    ) -> Measured:
        """Compare what was measured, on all users and by segment."""
        beside = {} if active is None else {"active": active}
        models = {BASELINE: popularity, **beside, "candidate": candidate}
        return Measured(
            method=method,
            how=evaluation.how_pooled(self._splits),
            n_users=len(candidate.user_index),
            compared=evaluation.compare_all(models, seed=self._seed),
            coverage_beside=coverage,
            segments=tuple(self._segments({**beside, "candidate": candidate})),
            problem=problem,
        )

    def _segments(self, models: Mapping[str, Quality]) -> Iterator[MeasuredSegment]:
        """Compare models on users by the length of their histories, and items by popularity."""
        popularity = self._splits[0].train.popularity
        parts: dict[SegmentKind, dict[str, dict[str, Quality]]] = {
            "history_length": {
                model: segments.by_history_length(quality) for model, quality in models.items()
            },
            "popularity": {
                model: segments.by_item_popularity(quality, popularity)
                for model, quality in models.items()
            },
        }
        for by, of_models in parts.items():
            for name, candidate in of_models["candidate"].items():
                part = {model: of_model[name] for model, of_model in of_models.items()}
                compared = evaluation.compare_all(part, seed=self._seed)
                yield MeasuredSegment(by, name, len(candidate.user_index), compared)


def _coverage_then(row: storage.Version, *, k: int, n_users: int) -> float | None:
    """Return what share of the items a version's lists had when it was judged by a refit.

    The version itself has seen what is held out now, and lists other things.
    Where more users were judged than are now, it says nothing: more users have
    more lists.
    """
    try:
        verdict = Verdict.from_json(row.verdict or {})
    except DataError:
        return None  # nothing was judged, or it came from elsewhere and has another form
    if verdict.method != "refit" or verdict.n_users > n_users or verdict.candidate is None:
        return None
    coverage = verdict.candidate.get(f"coverage@{k}")
    return None if coverage is None else coverage.mean


def _continued(seen: InteractionLog, later: InteractionLog) -> InteractionLog:
    """Append later interactions to a log, as far as it has their users and items."""
    user, item = later.users.places_in(seen.users), later.items.places_in(seen.items)
    later = later.part((user[later.user_index] >= 0) & (item[later.item_index] >= 0))
    times = (seen.occurred_at, later.occurred_at)

    def both(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return np.concatenate([first, second.astype(first.dtype)])

    return InteractionLog(
        seen.users,
        seen.items,
        both(seen.user_index, user[later.user_index]),
        both(seen.item_index, item[later.item_index]),
        both(seen.weight, later.weight),
        None if times[0] is None or times[1] is None else both(times[0], times[1]),
        both(seen.listing, later.listing),
    )


def _is_of(row: storage.Version, held_out: HeldOut) -> bool:
    """Say whether a version was fitted by this code to what is not held out.

    Fits are repeatable: to fit its recipe and settings again gives the version.
    """
    code: str | None = row.libraries.get("reckeeper")
    return code == __version__ and row.fingerprint == held_out.training_log.fingerprint()
