"""`reckeeper evaluate`: how well a recipe does, on two files or on what is stored."""

import json
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from reckeeper.cli.comparison import print_comparison
from reckeeper.cli.terminal import parse_settings, print_json
from reckeeper.errors import DataError


class SplitName(StrEnum):
    """Ways to hold out a part of the stored interactions."""

    NEXT = "next"
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
    typer.Option(help="Such as spectral; --compare takes all. Default: that of the active model."),
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
    SplitName | None,
    typer.Option(
        help="Without --train: how the stored interactions are split. Default: next where they "
        "have times, else random."
    ),
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
    split: _Split = None,
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
            "--compare takes all recipes on the stored interactions, tunes, and judges by the "
            "policy: leave out --train, --test, --history, --recipe, --set, --tune and --k."
        )
    if any(files) and not (train and test and recipe):
        raise DataError("Files are judged with all of --train FILE, --test FILE and --recipe NAME.")
    if tunes and pairs:
        raise DataError("--tune is to find the settings: leave out either --tune or --set.")
    if tune_seconds is not None and not (tunes or compare):
        raise DataError("--tune-seconds is the time for tuning: add --tune, or leave it out.")
    given = parse_settings(pairs or [])
    from reckeeper.cli import evaluation_run as runs

    if compare:
        found = runs.compared(tune_seconds=tune_seconds, seed=seed)
        if as_json:
            print_json(found)
        else:
            print_comparison(found)
        return
    report = runs.judged(
        recipe,
        given,
        files=(train, test, history) if train and test else None,
        split=None if split is None else split.value,
        tunes=tunes,
        tune_seconds=tune_seconds,
        k=k,
        seed=seed,
    )
    if as_json:
        typer.echo(json.dumps(report, allow_nan=False))
    else:
        _print_report(Console(), report)


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
        "", report["recipe"], "popularity", "difference", caption="±: half of the 95% interval"
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


def _half(interval: Mapping[str, float] | None) -> str:
    return f" ±{(interval['high'] - interval['low']) / 2:.4f}" if interval else ""
