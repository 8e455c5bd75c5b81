"""Which recipe suits the data: popularity, the plain SVD, a tuned recipe and what is active."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from reckeeper import clock, evaluation, storage
from reckeeper import policy as policies
from reckeeper.config import Settings
from reckeeper.errors import Action, DataError, NotEnoughDataError
from reckeeper.evaluation import PairedDifference, Quality, Split
from reckeeper.matrix import InteractionLog
from reckeeper.policy import Policy, StoredPolicy
from reckeeper.ranking import Ranker
from reckeeper.recipes import Recipe, recipe_named
from reckeeper.training import fitting, gate
from reckeeper.training.comparison import (
    BASELINE,
    Beside,
    Comparison,
    MadeOn,
    MeasuredRecipe,
    Rule,
    Today,
)
from reckeeper.training.gate import HeldOut
from reckeeper.training.pipeline import read_chosen
from reckeeper.training.report import TUNING, Report
from reckeeper.training.request import FIRST_RECIPE, TUNED_RECIPE
from reckeeper.training.tuning import tune
from reckeeper.training.verdict import Metric, found
from reckeeper.wire import JsonObject

LEAST_USERS = 10
"""Users with something held out; a comparison on fewer says nothing."""


def run(
    database: storage.Database,
    settings: Settings,
    *,
    tune_seconds: float | None = None,
    seed: int = 0,
    report: Report | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Comparison:
    """Compare the recipes on the stored interactions; see `compare`.

    Nothing is written: the active version stays as it is.

    Raises
    ------
    NotEnoughDataError
        There are no interactions, or too few users have several items.
    """
    report = report or _unreported
    report("reading", 0.0)
    with database.read() as connection:
        stored = policies.current(connection, settings)
        active = storage.models.active(connection)
        watermark, read_at = storage.interactions.last_id(connection), clock.now()
        log = read_chosen(
            connection, stored.policy, on_fraction=lambda done: report("reading", 0.05 * done)
        ).log
    return compare(
        log,
        policy=stored,
        active=active,
        watermark=watermark,
        read_at=read_at,
        tune_seconds=tune_seconds,
        seed=seed,
        report=report,
        should_stop=should_stop,
    )


def compare(
    log: InteractionLog,
    *,
    policy: StoredPolicy,
    active: storage.Version | None = None,
    watermark: int = 0,
    read_at: int = 0,
    tune_seconds: float | None = None,
    seed: int = 0,
    report: Report | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Comparison:
    """Measure `popularity`, `svd` as the first model has it, `spectral`, tuned, and what is active.

    Metric, length of the lists, margin and least number of users are the
    policy's, cuts and rule the gate's: what users did next where there are
    times, else a random fifth; several cuts where one judges few users. Fits
    see the training part of their cut alone, tuning what no cut holds out;
    all recipes are measured on the same users, over all items.

    Parameters
    ----------
    log : InteractionLog
    policy : StoredPolicy
    active : storage.Version or None
        Its recipe and settings are measured too, unless they are those of
        another line.
    watermark, read_at : int
        As of `MadeOn`.
    tune_seconds : float, optional
        How long to tune; by default what `tune` takes.
    seed : int
        For cuts, tuning, the users drawn and confidence intervals.
    report : Report, optional
        Gets the result so far whenever a recipe has been measured.
    should_stop : callable, optional
        Asked while tuning: True lets it end with the best so far.

    Raises
    ------
    NotEnoughDataError
        Fewer than `LEAST_USERS` users have several items.

    Notes
    -----
    By `log` and `seed` the result is the same each time, whatever the order
    of the interactions and the ids, apart from the seconds, and from settings
    that a time limit or `should_stop` decided.
    """
    report = report or _unreported
    held_out = _held_out(log, policy.policy, seed=seed)
    latest_at = None if log.occurred_at is None else int(log.occurred_at.max())
    made_on = MadeOn(len(log), len(log.users), len(log.items), latest_at, watermark, read_at)
    measuring = _Measuring(
        held_out,
        Comparison(
            split=held_out.splits[0].kind,
            how=evaluation.how_pooled(held_out.splits),
            k=policy.policy.k,
            made_on=made_on,
            rule=Rule.of(policy),
            active_version=None if active is None else active.version,
        ),
        users=held_out.users(policy.policy, seed=seed),
        active=active,
        seed=seed,
        report=report,
    )
    measuring.add(BASELINE, {}, begin=0.05, end=0.1)
    measuring.add(*FIRST_RECIPE, begin=0.1, end=0.2)
    report(TUNING, 0.2)
    try:
        tuned = tune(
            TUNED_RECIPE,
            held_out.training_log,
            drift=policy.policy.tuning.drift,
            seed=seed,
            budget_seconds=tune_seconds,
            on_progress=lambda progress: report(
                TUNING, 0.2 + 0.6 * progress.fraction, progress=progress
            ),
            should_stop=should_stop,
        )
    except NotEnoughDataError:  # several cuts may leave nothing that none of them holds out
        measuring.add(TUNED_RECIPE, {}, begin=0.8, end=0.9)
    else:
        measuring.add(TUNED_RECIPE, tuned.settings, tune_seconds=tuned.seconds, begin=0.8, end=0.9)
    measuring.add_active(begin=0.9, end=1.0)
    return measuring.result


def today(database: storage.Database, settings: Settings, job: storage.Job) -> Today | None:
    """Return what there is now, beside which a job's comparison may be out of date.

    Raises
    ------
    StorageError, ConfigError
        It cannot be read, or there is no policy that can be used.
    """
    if job.result is None:
        return None
    comparison = Comparison.from_json(job.result)
    watermark = comparison.made_on.watermark
    with database.read() as connection:
        active = storage.models.active(connection)
        return Today(
            rule=Rule.of(policies.current(connection, settings)),
            removed=_removed(storage.imports.all_imports(connection), comparison.made_on),
            n_newer=storage.interactions.count_after(
                connection, watermark, at_most=comparison.n_newer_to_count
            ),
            active=None if active is None else (active.version, active.recipe, _complete(active)),
        )


def _removed(imports: Sequence[storage.Import], made_on: MadeOn) -> str | None:
    """Say which interactions that were read are gone: they are deleted with their import alone."""
    for row in imports:
        was_read = row.first_id is not None and row.first_id <= made_on.watermark
        ended_at = row.finished_at or 0
        is_undone = row.status == storage.imports.UNDONE and ended_at > made_on.read_at
        if was_read and (is_undone or row.status == storage.imports.UNDOING):
            if row.is_demo:
                return "the demo data were removed"
            return f"import {row.import_id} ({row.source}) was undone"
    return None


def _held_out(log: InteractionLog, policy: Policy, *, seed: int) -> HeldOut:
    """Hold out what the gate does where no version is active.

    Raises
    ------
    NotEnoughDataError
        Too few users have something held out.
    """
    held_out = gate.hold_out(log, n_seen=0, active=None, policy=policy, seed=seed)
    n_users = _n_judged(held_out)
    if n_users < LEAST_USERS:
        raise NotEnoughDataError(
            "Recipes are compared by how they find what is held out of each user's items: that "
            f"takes at least {LEAST_USERS} users with 2 items or more each, and only {n_users} of "
            f"{len(log.users)} can be judged. Send or import more interactions, then ask again.",
            action=Action("send_interactions"),
        )
    return held_out


def _n_judged(held_out: HeldOut) -> int:
    judged = [split.judged for split in held_out.splits]
    return len(np.unique(np.concatenate(judged))) if judged else 0


def _complete(version: storage.Version) -> JsonObject:
    """Return all settings of a version, those that it left out too, as JSON values."""
    try:
        parsed = recipe_named(version.recipe).settings_type.parse(
            version.settings, recipe=version.recipe
        )
    except DataError:
        return dict(version.settings)  # of another time: the recipe no longer takes them
    return dataclasses.asdict(parsed)


class _Measuring:
    """Recipes measured on the same cuts, the baseline first."""

    def __init__(
        self,
        held_out: HeldOut,
        comparison: Comparison,
        *,
        users: np.ndarray,
        active: storage.Version | None,
        seed: int,
        report: Report,
    ) -> None:
        self._log = held_out.log
        self._splits = [split for split in held_out.splits if np.isin(split.judged, users).any()]
        self._users = users
        self._active = None if active is None else (active.recipe, _complete(active))
        self._seed = seed
        self._report = report
        self._qualities: dict[str, Quality] = {}
        self.result = comparison

    def add(
        self,
        recipe: str,
        settings: Mapping[str, object],
        *,
        name: str | None = None,
        tune_seconds: float | None = None,
        begin: float,
        end: float,
    ) -> None:
        """Fit and measure a recipe on each cut, and report the result with it."""
        qualities, fit_seconds = [], 0.0
        step = (end - begin) / len(self._splits)
        for number, split in enumerate(self._splits):
            began = time.perf_counter()
            model = self._fitted(recipe, settings, split, begin + number * step, step / 2)
            # The first cut leaves the most to fit.
            fit_seconds = fit_seconds or time.perf_counter() - began
            qualities.append(self._measured(model, split, begin + (number + 0.5) * step, step / 2))
        complete, tuned = model.settings, tune_seconds is not None
        line = MeasuredRecipe(
            name=name or (f"{recipe} (tuned)" if tuned else recipe),
            recipe=recipe,
            settings=complete,
            tuned=tuned,
            version=self.result.active_version if self._active == (recipe, complete) else None,
            fit_seconds=round(fit_seconds, 3),
            tune_seconds=round(tune_seconds or 0.0, 3),
            metrics={},
            versus={},
        )
        self._take(line, evaluation.pool(qualities))
        self._report("measuring", end, result=self.result)

    def add_active(self, *, begin: float, end: float) -> None:
        """Measure the active version's recipe and settings, if they are in no line yet."""
        if self._active is None or self.result.line_of(*self._active) is not None:
            self._report("measuring", end)
            return
        version = self.result.active_version
        recipe, settings = self._active
        try:
            self.add(recipe, settings, name=f"version {version} ({recipe})", begin=begin, end=end)
        except DataError as exc:
            problem = f"Version {version} could not be measured beside them: {exc.message}"
            self.result = dataclasses.replace(self.result, problem=problem)
            self._report("measuring", end, result=self.result)

    def _fitted(
        self, recipe: str, settings: Mapping[str, object], split: Split, begin: float, length: float
    ) -> Recipe:
        self._report("fitting", begin)
        return fitting.fit(
            recipe,
            settings,
            lambda: self._log.part(split.keep),
            split.train,
            on_progress=lambda done: self._report("fitting", begin + length * done),
        )

    def _measured(self, model: Recipe, split: Split, begin: float, length: float) -> Quality:
        self._report("measuring", begin)
        return evaluation.measure_split(
            Ranker.of(model, split.train),
            split,
            k=self.result.k,
            user_index=np.intersect1d(self._users, split.judged),
            on_progress=lambda done: self._report("measuring", begin + length * done),
        )

    def _take(self, line: MeasuredRecipe, quality: Quality) -> None:
        """Add a line to the result, and the differences between it and each other one."""
        self._qualities[line.name] = quality
        compared = evaluation.compare_all(self._qualities, seed=self._seed)
        paired = dict(compared.differences)
        for (one, other), differences in compared.differences.items():
            paired[other, one] = {name: _mirrored(found) for name, found in differences.items()}
        metrics = {
            name: {
                metric: Metric(figure.mean, figure.low, figure.high)
                for metric, figure in figures.items()
            }
            for name, figures in compared.figures.items()
        }
        lines = tuple(
            dataclasses.replace(
                line,
                metrics=metrics[line.name],
                versus={
                    other: self._beside(paired[other, line.name], metrics[other])
                    for other in self._qualities
                    if other != line.name
                },
            )
            for line in (*self.result.recipes, line)
        )
        self.result = dataclasses.replace(
            self.result, n_users=len(quality.user_index), recipes=lines
        )

    def _beside(
        self, paired: Mapping[str, PairedDifference], other: Mapping[str, Metric]
    ) -> Beside:
        rule = self.result.rule
        finding = found(
            paired[rule.metric],
            mean=other[rule.metric].mean,
            margin=rule.margin,
            min_users=rule.min_users,
        )
        return Beside(finding.standing, finding.n_users_needed, paired)


def _mirrored(paired: PairedDifference) -> PairedDifference:
    """Return the difference seen from the other side."""
    return dataclasses.replace(
        paired, difference=-paired.difference, low=-paired.high, high=-paired.low
    )


def _unreported(stage: str, fraction: float, **_found: object) -> None:
    pass
