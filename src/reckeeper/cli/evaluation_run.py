"""What `reckeeper evaluate` does: it reads, splits, tunes, fits and measures, and shows how far."""

import contextlib
import dataclasses
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from reckeeper import evaluation, storage, telemetry, wire
from reckeeper import policy as policies
from reckeeper.cli import installation
from reckeeper.cli.evaluation_files import read_interactions
from reckeeper.cli.terminal import tuning_note
from reckeeper.evaluation import tasks
from reckeeper.matrix import InteractionLog
from reckeeper.recipes import recipe_named
from reckeeper.recipes.popularity import Popularity
from reckeeper.training import pipeline
from reckeeper.training.request import FIRST_RECIPE

if TYPE_CHECKING:
    from reckeeper.training.tuning import Tuned, TuningProgress

BASELINE = Popularity.name


def judged(
    recipe: str | None,
    given: Mapping[str, Any],
    *,
    files: tuple[Path, Path, Path | None] | None,
    split: str | None,
    tunes: bool,
    tune_seconds: float | None,
    k: int,
    seed: int,
) -> dict[str, Any]:
    """Measure one recipe beside the baseline, and return the report that ``--json`` prints.

    Parameters
    ----------
    recipe : str or None
        None, without `files`: that of the active model.
    given : mapping
        The recipe's settings; of the active model's recipe, what changes of its settings.
    files : tuple of path, or None
        What to train on, what users did next, and what else users did before; None takes
        the stored interactions.
    split : str or None
        How the stored interactions are split: ``next``, ``user_time``, ``time`` or ``random``;
        None takes ``next`` where they have times, else ``random``.
    tunes : bool
        Whether to find the settings.
    tune_seconds : float or None
        How long to look for them.
    k : int
        Length of a list.
    seed : int
    """
    telemetry.configure_logging("cli")
    with _Stages() as stages:
        if files is not None and recipe is not None:
            name, settings = recipe, dict(given)
            recipe_named(name).settings_type.parse(settings, recipe=name)
            train, test, history = files
            logs = evaluation.canonical_together(
                _read(train, stages, with_times=True),
                _read(test, stages),
                _read(history, stages) if history else None,
            )
            task = tasks.of_logs(*logs)
        else:
            name, settings, task = _stored(recipe, given, split, seed=seed, stages=stages)
        tuned = None
        tuning_seconds = 0.0
        if tunes:
            tuned, tuning_seconds = _tuned(
                name, task.log, seed=seed, tune_seconds=tune_seconds, stages=stages
            )
            settings = tuned.settings
        return _judged(task, name, settings, k=k, seed=seed, stages=stages) | {
            "tuned": tunes,
            "tune_seconds": round(tuning_seconds, 3),
            "tuning": None if tuned is None else _tuning(tuned),
            "peak_memory_bytes": telemetry.peak_memory_bytes(),
        }


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


def _read(path: Path, stages: "_Stages", *, with_times: bool = False) -> InteractionLog:
    with stages.stage(f"reading {path.name}") as stage:
        log, ignored = read_interactions(path, with_times=with_times, on_progress=stage)
    if ignored:
        stages.say(f"{path}: columns not used: {', '.join(ignored)}")
    return log


def _stored(
    recipe: str | None,
    given: Mapping[str, Any],
    split: str | None,
    *,
    seed: int,
    stages: "_Stages",
) -> tuple[str, dict[str, Any], tasks.Task]:
    """Return recipe and settings, the active model's where none are given, and the task."""
    settings = installation.settings()
    database = storage.open_database(settings)
    with contextlib.closing(database), database.read() as connection:
        active = storage.models.active(connection)
        basis, chosen = (active.recipe, active.settings) if active else FIRST_RECIPE
        name = recipe or basis
        chosen = {**(chosen if name == basis else {}), **given}
        recipe_named(name).settings_type.parse(chosen, recipe=name)
        with stages.stage("reading the stored interactions") as stage:
            policy = policies.current(connection, settings).policy
            log = pipeline.read_chosen(connection, policy, on_fraction=stage).log
    with stages.stage("splitting them"):
        log, _ = evaluation.canonical(log)
        if split is None:
            made = evaluation.split_default(log, seed=seed)
        elif split == "next":
            made = evaluation.split_next(log, seed=seed)
        elif split == "random":
            made = evaluation.split_random(log, seed=seed)
        elif split == "time":
            made = evaluation.split_time(log)
        else:
            made = evaluation.split_user_time(log, seed=seed)
        return name, chosen, tasks.of_split(log, made)


def _tuned(
    recipe: str,
    log: InteractionLog,
    *,
    seed: int,
    tune_seconds: float | None,
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


def _judged(
    task: tasks.Task,
    recipe: str,
    settings: Mapping[str, Any],
    *,
    k: int,
    seed: int,
    stages: "_Stages",
) -> dict[str, Any]:
    """Fit a recipe, measure it beside the baseline, and return what came of it."""
    with stages.stage(f"fitting {recipe}") as fitting:
        model = recipe_named(recipe).fit(task.train, settings=settings, on_progress=fitting)
    baseline = recipe_named(BASELINE).fit(task.train, settings={})
    with stages.stage(f"measuring {recipe} and {BASELINE}") as measuring:
        popular = task.measure(baseline, k=k, on_progress=lambda done: measuring(done / 2))
        quality = task.measure(model, k=k, on_progress=lambda done: measuring((1 + done) / 2))
        of_popular, found = popular.summary(seed=seed), quality.summary(seed=seed)
        versus_popularity = evaluation.compare(popular, quality, seed=seed)
    return {
        "recipe": recipe,
        "settings": model.settings,
        "k": k,
        **{metric: figure.mean for metric, figure in found.items()},
        "intervals": {
            metric: {"low": figure.low, "high": figure.high}
            for metric, figure in found.items()
            if figure.low is not None
        },
        "popularity": {metric: figure.mean for metric, figure in of_popular.items()},
        "versus_popularity": {
            metric: dataclasses.asdict(paired) for metric, paired in versus_popularity.items()
        },
        **task.counts(),
        "fit_seconds": round(fitting.seconds, 3),
        "evaluate_seconds": round(measuring.seconds, 3),
    }


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
