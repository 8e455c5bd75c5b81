"""`reckeeper evaluate`: how well a recipe does, on two files or on what is stored."""

import contextlib
import json
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from reckeeper import evaluation, storage, telemetry, wire
from reckeeper import policy as policies
from reckeeper.cli import installation
from reckeeper.cli.evaluation_files import read_interactions
from reckeeper.cli.terminal import parse_settings, tuning_note
from reckeeper.errors import DataError
from reckeeper.evaluation import tasks
from reckeeper.matrix import InteractionLog
from reckeeper.recipes import RECIPES, recipe_named
from reckeeper.recipes.popularity import Popularity
from reckeeper.training import pipeline
from reckeeper.training.request import FIRST_RECIPE

if TYPE_CHECKING:
    from reckeeper.training.tuning import Tuned, TuningProgress

BASELINE = Popularity.name


class SplitName(StrEnum):
    """Ways to hold out a part of the stored interactions."""

    USER_TIME = "user_time"
    TIME = "time"
    RANDOM = "random"


def register(app: typer.Typer) -> None:
    """Add the command `evaluate`."""
    app.command("evaluate")(evaluate)


_Train = Annotated[
    Path | None,
    typer.Option(help="Parquet or CSV with user_id, item_id[, weight][, timestamp]."),
]
_Test = Annotated[Path | None, typer.Option(help="What users did next, in the same form.")]
_History = Annotated[
    Path | None,
    typer.Option(help="What users did before that training does not see: judge these users."),
]
_Recipe = Annotated[
    str | None,
    typer.Option(help=f"One of {', '.join(RECIPES)}. Default: that of the active model."),
]
_Pairs = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A setting of the recipe; repeatable."),
]
_Tunes = Annotated[
    bool, typer.Option("--tune", help="Find the settings, from the training part alone.")
]
_TuneSeconds = Annotated[
    float | None,
    typer.Option(min=0.1, max=86_400, help="Default: just under five times what one fit takes."),
]
_Split = Annotated[
    SplitName, typer.Option(help="Without --train: how the stored interactions are split.")
]
_Compare = Annotated[
    bool, typer.Option("--compare", help="Which recipe suits the stored interactions?")
]
_Length = Annotated[int, typer.Option("--k", min=1, max=1000, help="Length of a list.")]
_Seed = Annotated[int, typer.Option(min=0, help="Makes random choices repeatable.")]
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")]


def evaluate(
    train: _Train = None,
    test: _Test = None,
    history: _History = None,
    recipe: _Recipe = None,
    pairs: _Pairs = None,
    tunes: _Tunes = False,
    tune_seconds: _TuneSeconds = None,
    split: _Split = SplitName.USER_TIME,
    compare: _Compare = False,
    k: _Length = 20,
    seed: _Seed = 0,
    as_json: _Json = False,
) -> None:
    """Measure how well a recipe finds what users did next.

    With --train and --test on two files; without them on a part of the stored interactions that
    is held out. Needs no server and changes nothing. Ctrl-C while it tunes goes on with the best
    settings so far, a second one leaves.
    """
    files = (train, test, history)
    if compare and (any(files) or recipe or pairs or tunes or k != 20):
        raise DataError(
            "--compare takes all recipes on the stored interactions, tunes, and judges lists of "
            "20: leave out --train, --test, --history, --recipe, --set, --tune and --k."
        )
    if any(files) and not (train and test and recipe):
        raise DataError("Files are judged with all of --train FILE, --test FILE and --recipe NAME.")
    if tunes and pairs:
        raise DataError("--tune is to find the settings: leave out either --tune or --set.")
    if tune_seconds is not None and not (tunes or compare):
        raise DataError("--tune-seconds is the time for tuning: add --tune, or leave it out.")
    given = parse_settings(pairs or [])
    telemetry.configure_logging("cli")
    with _Stages() as stages:
        if compare:
            report = _compared(tune_seconds=tune_seconds, seed=seed, stages=stages)
        else:
            if train and test and recipe:
                name, settings = recipe, given
                recipe_named(name).settings_type.parse(settings, recipe=name)
                task = tasks.of_logs(
                    _read(train, stages, with_times=True),
                    _read(test, stages),
                    _read(history, stages) if history else None,
                )
            else:
                name, settings, task = _stored(recipe, given, split, seed=seed, stages=stages)
            tuned = None
            tuning_seconds = 0.0
            if tunes:
                tuned, tuning_seconds = _tuned(
                    name, task.log, seed=seed, tune_seconds=tune_seconds, stages=stages
                )
                settings = tuned.settings
            report = _judged(task, name, settings, k=k, seed=seed, stages=stages) | {
                "tuned": tunes,
                "tune_seconds": round(tuning_seconds, 3),
                "tuning": None if tuned is None else _tuning(tuned),
                "peak_memory_bytes": telemetry.peak_memory_bytes(),
            }
    if as_json:
        typer.echo(json.dumps(report, allow_nan=False))
    elif compare:
        _print_comparison(Console(), report)
    else:
        _print_report(Console(), report)


# The run


def _read(path: Path, stages: "_Stages", *, with_times: bool = False) -> InteractionLog:
    with stages.stage(f"reading {path.name}") as stage:
        log, ignored = read_interactions(path, with_times=with_times, on_progress=stage)
    if ignored:
        stages.say(f"{path}: columns not used: {', '.join(ignored)}")
    return log


def _stored(
    recipe: str | None,
    given: Mapping[str, Any],
    split: SplitName,
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
        if split is SplitName.RANDOM:
            made = evaluation.split_random(log, seed=seed)
        elif split is SplitName.TIME:
            made = evaluation.split_time(log)
        else:
            made = evaluation.split_user_time(log)
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
        **{metric: values["mean"] for metric, values in found.items()},
        "intervals": {
            metric: {"low": values["low"], "high": values["high"]}
            for metric, values in found.items()
            if "low" in values
        },
        "popularity": {metric: values["mean"] for metric, values in of_popular.items()},
        "versus_popularity": versus_popularity,
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


def _compared(*, tune_seconds: float | None, seed: int, stages: "_Stages") -> dict[str, Any]:
    from reckeeper.training import recipe_comparison

    settings = installation.settings()
    database = storage.open_database(settings)
    with (
        contextlib.closing(database),
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

        return recipe_comparison.run(
            database,
            settings,
            tune_seconds=tune_seconds,
            seed=seed,
            report=report,
            should_stop=should_stop,
        ).to_json()


# What people see


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


_FACTS = (
    *("split", "n_users", "n_items", "n_interactions", "n_test_users", "n_test_users_unseen"),
    *("n_test_users_left_out", "n_test_items_unseen", "n_test_pairs_in_train", "fit_seconds"),
    *("tune_seconds", "evaluate_seconds", "peak_memory_bytes"),
)


def _print_report(console: Console, report: Mapping[str, Any]) -> None:
    settings = ", ".join(f"{key}={json.dumps(value)}" for key, value in report["settings"].items())
    console.print(f"{report['recipe']}: {settings}", markup=False, highlight=False, soft_wrap=True)
    if report["tuning"]:
        console.print(
            f"Found among {report['tuning']['n_tried']} settings that were tried.", highlight=False
        )
    table = Table(
        "", report["recipe"], BASELINE, "difference", caption="±: half of the 95% interval"
    )
    for metric, popular in report["popularity"].items():
        difference = report["versus_popularity"].get(metric)
        table.add_row(
            metric,
            f"{report[metric]:.4f}{_half(report['intervals'].get(metric))}",
            f"{popular:.4f}",
            f"{difference['difference']:+.4f}{_half(difference)}" if difference else "",
        )
    console.print(table)
    facts = Table(show_header=False)
    for name in _FACTS:
        if report[name] is not None:
            value = report[name]
            facts.add_row(name, value if isinstance(value, str) else f"{value:,}")
    console.print(facts)


def _print_comparison(console: Console, result: Mapping[str, Any]) -> None:
    ranked = f"ndcg@{result['k']}"
    metrics = list(result["recipes"][0]["metrics"])
    table = Table("recipe", *metrics, f"{ranked} over {BASELINE}", "fit", "tuning")
    for row in result["recipes"]:
        difference = row["versus_popularity"][ranked]
        table.add_row(
            row["recipe"],
            *(f"{row['metrics'][metric]['mean']:.4f}" for metric in metrics),
            f"{difference['difference']:+.4f}{_half(difference)}",
            f"{row['fit_seconds']:.1f} s",
            f"{row['tune_seconds']:.1f} s" if row["tuned"] else "",
        )
    console.print(table)
    console.print(
        f"{result['n_users']:,} users; held out by {result['split']}. `reckeeper retrain --recipe "
        "NAME`, with --tune or --set, trains one for real.",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _half(interval: Mapping[str, float] | None) -> str:
    return f" ±{(interval['high'] - interval['low']) / 2:.4f}" if interval else ""
