"""What `reckeeper evaluate` does: it reads, cuts, tunes, fits and measures, and shows how far."""

import contextlib
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from reckeeper import evaluation, storage, telemetry, wire
from reckeeper import policy as policies
from reckeeper.cli import installation
from reckeeper.cli.evaluation_files import Columns, read_interactions, read_table
from reckeeper.cli.evaluation_report import Groups, Line, Report, segments_of
from reckeeper.cli.terminal import tuning_note
from reckeeper.config import Settings
from reckeeper.errors import DataError
from reckeeper.evaluation import Quality, segments, tasks
from reckeeper.evaluation.peers import EASE, PEERS, Peer, check_installed
from reckeeper.matrix import IdIndex, InteractionLog
from reckeeper.recipes import Recipe, Scorer, recipe_named
from reckeeper.recipes.popularity import Popularity
from reckeeper.training import fitting, memory, pipeline
from reckeeper.training.request import FIRST_RECIPE

if TYPE_CHECKING:
    from reckeeper.training.tuning import Tuned, TuningProgress

BASELINE = Popularity.name
MAX_USERS = evaluation.POOL_BELOW
"""Users who are judged at most where a part is held out: enough for one cut.

A test file's are judged all.
"""


@dataclass(frozen=True)
class Wanted:
    """A recipe to be judged.

    Attributes
    ----------
    recipe : str
    given : mapping
        Settings; of the active model's recipe, what changes of its settings.
    label : str
        As it was asked for.
    """

    recipe: str
    given: Mapping[str, Any]
    label: str


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be judged, on what.

    Attributes
    ----------
    file : Path or None
        Interactions to be cut.
    files : tuple of path, or None
        What to train on, what users did next, and what else users did before. Without either,
        the stored interactions are cut.
    columns : Columns
        Of all files.
    users_table, items_table : Path or None
        Whose columns give segments.
    split : str or None
        ``next``, ``user_time``, ``time`` or ``random``; None is `evaluation.pooled_default`.
    repeats : bool
    max_users : int or None
        None is all of a test file, and else `MAX_USERS`.
    wanted : tuple of Wanted
        None of them takes svd and spectral for files, and the active model's for what is stored.
    given : mapping
        Settings of that recipe.
    peers, tunes : bool
    tune_seconds : float or None
    ks : tuple of int
        Ascending.
    seed : int
    """

    file: Path | None = None
    files: tuple[Path, Path, Path | None] | None = None
    columns: Columns = field(default_factory=Columns)
    users_table: Path | None = None
    items_table: Path | None = None
    split: str | None = None
    repeats: bool = False
    max_users: int | None = None
    wanted: tuple[Wanted, ...] = ()
    given: Mapping[str, Any] = field(default_factory=dict)
    peers: bool = False
    tunes: bool = False
    tune_seconds: float | None = None
    drift: wire.Drift = "none"
    ks: tuple[int, ...] = (20,)
    seed: int = 0


@dataclass(frozen=True)
class _Data:
    """What is judged on: a task for each cut, of the same users and items."""

    source: str
    how: str
    tasks: tuple[tasks.Task, ...]
    users: IdIndex

    @property
    def items(self) -> IdIndex:
        return self.tasks[0].train.items


def judged(request: Request) -> Report:
    """Measure recipes beside the baseline, and each against each."""
    telemetry.configure_logging("cli")
    began = time.perf_counter()
    if request.peers:
        check_installed()
    with _Stages() as stages:
        wanted = request.wanted
        if request.file is None and request.files is None:
            wanted, log = _stored(request, stages)
            data = _cut(request, log, "the stored interactions", stages)
        else:
            wanted = wanted or tuple(Wanted(name, {}, name) for name in ("svd", "spectral"))
            for one in wanted:
                recipe_named(one.recipe).settings_type.parse(dict(one.given), recipe=one.recipe)
            data = _of_files(request, stages)
        tables = _tables(request, data, stages)
        lines, qualities = _measured(request, wanted, data, stages)
        with stages.stage("comparing them") as stage:
            compared = evaluation.compare_all(qualities, seed=request.seed)
            popularity = data.tasks[0].train.popularity
            found = segments_of(
                qualities,
                tables,
                baseline=BASELINE,
                popularity=popularity,
                seed=request.seed,
                on_progress=stage,
            )
    any_quality = qualities[BASELINE]
    split = data.tasks[0].split
    return Report(
        source=data.source,
        how=data.how + data.tasks[0].lateness([one.label for one in lines if one.is_ordered]),
        split=None if split is None else split.kind,
        n_cuts=len(data.tasks),
        n_questions=len(any_quality.question_user),
        repeats=request.repeats,
        ks=request.ks,
        seed=request.seed,
        counts=data.tasks[0].counts() | {"n_test_users": len(any_quality.user_index)},
        lines=tuple(lines),
        headline=wanted[0].label,
        compared=compared,
        segments=tuple(found),
        seconds=round(time.perf_counter() - began, 3),
        peak_memory_bytes=telemetry.peak_memory_bytes(),
    )


def compared(*, tune_seconds: float | None, seed: int) -> wire.Evaluation:
    """Measure every recipe on the stored interactions, and return what was found of each."""
    from reckeeper.training import recipe_comparison

    telemetry.configure_logging("cli")
    settings = installation.settings()
    database = storage.open_database(settings)
    with (
        contextlib.closing(database),
        _Stages() as stages,
        stages.stage("comparing") as show,
        _until_ctrl_c(stages) as should_stop,
    ):

        def report(
            stage: str,
            fraction: float,
            *,
            progress: "TuningProgress | None" = None,
            **_found: Any,
        ) -> None:
            show(fraction, stage if progress is None else f"{stage}: {_note(progress)}")

        found = recipe_comparison.run(
            database,
            settings,
            tune_seconds=tune_seconds,
            seed=seed,
            report=report,
            should_stop=should_stop,
        )
    return wire.Evaluation.model_validate(found.described())


def _read(
    path: Path, columns: Columns, stages: "_Stages", *, needs_times: bool = True
) -> InteractionLog:
    with stages.stage(f"reading {path.name}") as stage:
        log, ignored = read_interactions(
            path, columns=columns, needs_times=needs_times, on_progress=stage
        )
    if ignored:
        stages.say(f"{path}: columns not used: {', '.join(ignored)}")
    return log


def _of_files(request: Request, stages: "_Stages") -> _Data:
    weights = Settings.from_env().interaction_weights
    columns = replace(request.columns, type_weights=weights)
    if request.file is not None:
        return _cut(request, _read(request.file, columns, stages), request.file.name, stages)
    if request.files is None:
        raise DataError("There is no file to judge on.")
    train, test, history = request.files
    known, asked, before = evaluation.canonical_together(
        _read(train, columns, stages),
        _read(test, columns, stages, needs_times=False),
        _read(history, columns, stages, needs_times=False) if history else None,
    )
    task = tasks.of_logs(known, asked, before)
    how = f"all interactions in {test.name}"
    how += f", from the history in {history.name}" if history else ""
    if request.max_users is not None:
        task = task.drawn(request.max_users, seed=request.seed)
        how += _draw_in_words(task, request.max_users)
    names = [path.name for path in request.files if path is not None]
    return _Data(" and ".join(names), how, (task,), asked.users)


def _stored(request: Request, stages: "_Stages") -> tuple[tuple[Wanted, ...], InteractionLog]:
    """Return what is wanted, by default the active model's recipe, and the interactions."""
    settings = installation.settings()
    database = storage.open_database(settings)
    with contextlib.closing(database), database.read() as connection:
        active = storage.models.active(connection)
        basis, own = (active.recipe, active.settings) if active else FIRST_RECIPE
        wanted = request.wanted or (Wanted(basis, request.given, basis),)
        chosen = tuple(
            replace(one, given={**(own if one.recipe == basis else {}), **one.given})
            for one in wanted
        )
        for one in chosen:
            recipe_named(one.recipe).settings_type.parse(dict(one.given), recipe=one.recipe)
        with stages.stage("reading the stored interactions") as stage:
            policy = policies.current(connection, settings).policy
            log = pipeline.read_chosen(connection, policy, on_fraction=stage).log
    return chosen, log


def _cut(request: Request, log: InteractionLog, source: str, stages: "_Stages") -> _Data:
    """Cut a log as it was asked for, or as suits it."""
    if not log.has_taste():
        raise DataError(
            f"No interaction of {source} weighs more than 0, so nothing says what users like: "
            "check the weights, or the least rating."
        )
    with stages.stage("cutting them"):
        log, _ = evaluation.canonical(log)
        kind = request.split
        most = MAX_USERS if request.max_users is None else request.max_users
        # Settings that were found on one cut have seen what another holds out.
        below = 0 if request.tunes else evaluation.POOL_BELOW
        if kind is None:
            splits = evaluation.pooled_default(
                log, seed=request.seed, below=below, repeats=request.repeats, max_users=most
            )
        else:
            splits = evaluation.pooled_splits(
                log,
                kind,
                seed=request.seed,
                below=below,
                repeats=request.repeats,
                max_users=most if kind == "next" else None,
            )
        made = tuple(tasks.of_split(log, split).drawn(most, seed=request.seed) for split in splits)
        how = evaluation.how_pooled(splits) + _draw_in_words(made[0], most)
    return _Data(source, how, made, log.users)


def _draw_in_words(task: tasks.Task, most: int) -> str:
    n_users = len(np.unique(task.question_user))
    return f"; for {most:,} users drawn at random" if n_users == most else ""


def _measured(
    request: Request, wanted: Sequence[Wanted], data: _Data, stages: "_Stages"
) -> tuple[list[Line], dict[str, Quality]]:
    """Fit and measure every model on every cut, one at a time."""
    lines: list[Line] = []
    qualities: dict[str, Quality] = {}

    def judge(
        label: str, recipe: str, fit: _Fit, *, tuned: "tuple[Tuned, float] | None" = None
    ) -> None:
        fit_seconds = evaluate_seconds = 0.0
        parts: list[Quality] = []
        settings: dict[str, Any] = {}
        decided: list[dict[str, Any]] = []
        is_ordered = False
        for place, task in enumerate(data.tasks):
            cut = f", cut {place + 1} of {len(data.tasks)}" if len(data.tasks) > 1 else ""
            with stages.stage(f"fitting {label}{cut}") as stage:
                model, settings = fit(task, stage)
            if isinstance(model, Recipe):
                is_ordered |= model.is_ordered
                decided += [model.decided] if model.decided else []
            fit_seconds += stage.seconds
            with stages.stage(f"measuring {label}{cut}") as stage:
                parts.append(task.measure(model, k=request.ks, on_progress=stage))
            evaluate_seconds += stage.seconds
        qualities[label] = evaluation.pool(parts)
        lines.append(
            Line(
                label=label,
                recipe=recipe,
                settings=settings,
                is_peer=fit.is_peer,
                is_ordered=is_ordered,
                fit_seconds=round(fit_seconds, 3),
                evaluate_seconds=round(evaluate_seconds, 3),
                tune_seconds=0.0 if tuned is None else round(tuned[1], 3),
                tuning=None if tuned is None else _tuning(tuned[0]),
                decided=tuple(decided),
            )
        )

    judge(BASELINE, BASELINE, _Fit(recipe=BASELINE))
    for one in wanted:
        if one.label == BASELINE:
            continue
        tuned = None
        settings = dict(one.given)
        if request.tunes:
            tuned = _tuned(
                one.recipe,
                data.tasks[0].log,
                seed=request.seed,
                tune_seconds=request.tune_seconds,
                drift=request.drift,
                stages=stages,
            )
            settings = tuned[0].settings
        judge(one.label, one.recipe, _Fit(recipe=one.recipe, settings=settings), tuned=tuned)
    for peer in PEERS if request.peers else ():
        if peer is EASE and EASE.fit_bytes(len(data.items)) > memory.available() // 2:
            stages.say(
                f"ease is left out: {len(data.items):,} items × as many do not fit in memory."
            )
            continue
        judge(peer.name, peer.name, _Fit(peer=peer))
    return lines, qualities


@dataclass(frozen=True)
class _Fit:
    """Fits a recipe with settings, or a peer."""

    recipe: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    peer: type[Peer] | None = None

    @property
    def is_peer(self) -> bool:
        return self.peer is not None

    def __call__(
        self, task: tasks.Task, on_progress: Callable[[float], None]
    ) -> tuple[Scorer, dict[str, Any]]:
        if self.peer is not None:
            return self.peer(task.train), dict(self.peer.settings)
        model = fitting.fit(
            self.recipe, self.settings, lambda: task.log, task.train, on_progress=on_progress
        )
        return model, model.settings


def _tables(request: Request, data: _Data, stages: "_Stages") -> Groups:
    """Read the tables of users and of items into the segments that their columns make."""
    groups: Groups = {}
    columns = request.columns
    for of, path, column, ids in (
        ("users", request.users_table, columns.user, data.users),
        ("items", request.items_table, columns.item, data.items),
    ):
        if path is None:
            continue
        with stages.stage(f"reading {path.name}"):
            table = read_table(path, id_column=column, written=columns)
        names = pa.array(ids.ids, pa.string())
        row_of = pc.fill_null(pc.index_in(names, value_set=table.pop(column)), -1).to_numpy()
        if not (row_of >= 0).any():
            raise DataError(
                f"No id in the column {column!r} of {path} is one of the {len(ids):,} {of} of the "
                "interactions: check that both have the same kind of ids."
            )
        unused = []
        for name, values in table.items():
            found = segments.by_column(values)
            if not found:
                unused.append(name)
                continue
            # The row after the last is that of the place -1.
            groups[of, name] = {
                value: np.append(within, False)[row_of] for value, within in found.items()
            }
            if (row_of < 0).any():
                groups[of, name]["not in the table"] = row_of < 0
        if unused:
            stages.say(f"{path}: nearly every row has its own: {', '.join(unused)}; not used.")
    return groups


def _tuned(
    recipe: str,
    log: InteractionLog,
    *,
    seed: int,
    tune_seconds: float | None,
    drift: wire.Drift,
    stages: "_Stages",
) -> "tuple[Tuned, float]":
    """Return also the seconds that it took."""
    from reckeeper.training.tuning import tune

    def show(progress: "TuningProgress") -> None:
        stage(progress.fraction, _note(progress))

    with stages.stage(f"tuning {recipe}") as stage, _until_ctrl_c(stages) as should_stop:
        tuned = tune(
            recipe,
            log,
            drift=drift,
            seed=seed,
            budget_seconds=tune_seconds,
            on_progress=show,
            should_stop=should_stop,
        )
    return tuned, stage.seconds


def _note(progress: "TuningProgress") -> str:
    return tuning_note(wire.TuningProgress.model_validate(progress.to_json()))


@contextlib.contextmanager
def _until_ctrl_c(stages: "_Stages") -> Iterator[Callable[[], bool]]:
    """Give a function that says whether Ctrl-C was pressed; a second time it acts as ever."""
    pressed: list[str] = []

    def note(_number: int, _frame: FrameType | None) -> None:
        pressed.append("once")
        signal.signal(signal.SIGINT, previous)

    def should_stop() -> bool:
        if pressed == ["once"]:
            pressed.append("said")
            stages.say("Tuning ends with the best so far. Ctrl-C again leaves.")
        return bool(pressed)

    previous = signal.signal(signal.SIGINT, note)
    stages.say("While it tunes, Ctrl-C goes on with the best settings so far.")
    try:
        yield should_stop
    finally:
        signal.signal(signal.SIGINT, previous)


def _tuning(tuned: "Tuned") -> dict[str, Any]:
    return {
        "n_tried": tuned.n_tried,
        "ndcg": tuned.best.ndcg,
        "by_split": tuned.best.by_split,
        "stopped": tuned.stopped,
    }


class _Stage:
    """One thing that is being done: called with the fraction done, and what there is to say."""

    def __init__(self, progress: Progress, name: str) -> None:
        self.seconds = 0.0
        self._progress = progress
        self._task = progress.add_task(name, total=1.0, note="")
        self._began = time.perf_counter()

    def __call__(self, fraction: float, note: str = "") -> None:
        self._progress.update(self._task, completed=fraction, note=note)

    def end(self) -> None:
        self.seconds = time.perf_counter() - self._began
        self._progress.remove_task(self._task)


class _Stages:
    """The stages of a run, on stderr: a bar for the present one, a line for each that is done."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[_Stage]:
        """Show a stage while the block runs; afterwards it has its `seconds`."""
        stage = _Stage(self._progress, name)
        try:
            yield stage
        finally:
            stage.end()
        self.say(f"{name}: {stage.seconds:.1f} s")

    def say(self, line: str) -> None:
        """Print a line that stays."""
        self._progress.console.print(line, markup=False, highlight=False, soft_wrap=True)
