"""`reckeeper evaluate`: how well recipes do, on anyone's file or on what is stored."""

import json
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reckeeper.cli.comparison import print_comparison
from reckeeper.cli.file_options import Delimiter, Encoding
from reckeeper.cli.terminal import DriftName, parse_settings, print_json
from reckeeper.errors import DataError

if TYPE_CHECKING:  # it brings what fits and measures, which help does without
    from reckeeper.cli.evaluation_run import Wanted

_DEFAULT_KS = (20,)


class SplitName(StrEnum):
    """Ways to hold out a part of the interactions."""

    NEXT = "next"
    USER_TIME = "user_time"
    TIME = "time"
    RANDOM = "random"


def register(app: typer.Typer) -> None:
    """Add the command `evaluate`."""
    app.command("evaluate")(evaluate)


_File = Annotated[
    Path | None,
    typer.Argument(help="Interactions to cut: CSV, TSV or Parquet. Default: the stored ones."),
]
_Train = Annotated[Path | None, typer.Option(help="Instead of FILE: what to train on.")]
_Test = Annotated[Path | None, typer.Option(help="With --train: what users did next.")]
_History = Annotated[
    Path | None,
    typer.Option(help="What users did before that training does not see: judge these users."),
]
_UserColumn = Annotated[str, typer.Option(help="Also of --users-table.")]
_ItemColumn = Annotated[str, typer.Option(help="Also of --items-table.")]
_WeightColumn = Annotated[
    str | None, typer.Option(help="Default: weight, where there is one; else 1.")
]
_TimeColumn = Annotated[
    str | None, typer.Option(help="Default: timestamp or occurred_at, where there is one.")
]
_TimeUnit = Annotated[
    str | None,
    typer.Option(help="Of times that are numbers: s, ms, us or ns. Default: the largest tells."),
]
_TypeColumn = Annotated[
    str | None, typer.Option(help="Default: interaction_type, where there is one.")
]
_RatingColumn = Annotated[
    str | None, typer.Option(help="Column of ratings, for --min-rating. Default: rating.")
]
_MinRating = Annotated[
    float | None, typer.Option(help="Rows with a lower rating are seen, and not liked.")
]
_UsersTable = Annotated[
    Path | None, typer.Option(help="Table of users: each column gives segments.")
]
_ItemsTable = Annotated[
    Path | None, typer.Option(help="Table of items: each column gives segments.")
]
_Recipe = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME[:KEY=VALUE,…]",
        help="Such as spectral, or spectral:n_components=64; repeatable. Default: svd and spectral "
        "for files, else that of the active model.",
    ),
]
_Pairs = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A setting of the one recipe; repeatable."),
]
_Peers = Annotated[
    bool,
    typer.Option("--peers", help="Beside them implicit's ALS and item-kNN, and EASE."),
]
_Tunes = Annotated[
    bool, typer.Option("--tune", help="Find the settings, from the training part alone.")
]
_TuneSeconds = Annotated[
    float | None,
    typer.Option(
        min=0.1,
        max=86_400,
        help="CPU time to tune for. Default: 120 to 400, with much data more.",
    ),
]
_Drift = Annotated[
    DriftName | None,
    typer.Option(
        help="How far users' next choices lean to popular items, for tuning. Default: none."
    ),
]
_Split = Annotated[
    SplitName | None,
    typer.Option(
        help="How the interactions are cut. Default: next where they have times, else random."
    ),
]
_Repeats = Annotated[
    bool,
    typer.Option("--repeats", help="Ask for repeated interactions too, as shops want (next)."),
]
_Users = Annotated[
    int | None,
    typer.Option(
        min=1, help="Judge so many at most, drawn at random. Default: 2,000; all with --test."
    ),
]
_Compare = Annotated[
    bool, typer.Option("--compare", help="Which recipe suits the stored interactions?")
]
_Lengths = Annotated[
    str, typer.Option("--k", metavar="K[,K…]", help="Lengths of the lists, 1 to 1000: 5,10,20.")
]
_Seed = Annotated[int, typer.Option(min=0, help="Makes random choices repeatable.")]
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")]
_Html = Annotated[
    Path | None, typer.Option(help="Write the report as one page that can be mailed.")
]


def evaluate(
    file: _File = None,
    train: _Train = None,
    test: _Test = None,
    history: _History = None,
    recipe: _Recipe = None,
    pairs: _Pairs = None,
    peers: _Peers = False,
    split: _Split = None,
    repeats: _Repeats = False,
    k: _Lengths = "20",
    users: _Users = None,
    users_table: _UsersTable = None,
    items_table: _ItemsTable = None,
    user_column: _UserColumn = "user_id",
    item_column: _ItemColumn = "item_id",
    weight_column: _WeightColumn = None,
    time_column: _TimeColumn = None,
    time_unit: _TimeUnit = None,
    type_column: _TypeColumn = None,
    rating_column: _RatingColumn = None,
    min_rating: _MinRating = None,
    delimiter: Delimiter = None,
    encoding: Encoding = None,
    tunes: _Tunes = False,
    tune_seconds: _TuneSeconds = None,
    drift: _Drift = None,
    compare: _Compare = False,
    seed: _Seed = 0,
    as_json: _Json = False,
    html: _Html = None,
) -> None:
    """Measure how well recipes find what users did next.

    FILE is cut in two, what to learn from and what to find; or --train and
    --test are given; or the stored interactions are cut. Popularity is always
    beside the recipes. Needs no server and changes nothing. Ctrl-C while it
    tunes goes on with the best settings so far, a second one leaves.
    """
    ks, given, files = _lengths(k), parse_settings(pairs or []), (train, test, history)
    if compare and (file or any(files) or recipe or given or tunes or peers or html):
        raise DataError(_COMPARES)
    if compare and ks != _DEFAULT_KS:
        raise DataError(_COMPARES)
    _check_cut(file, files, split=split, repeats=repeats)
    _check_recipes(recipe or [], given, tunes=tunes, needs_name=bool(file or train))
    if tune_seconds is not None and not (tunes or compare):
        raise DataError("--tune-seconds is the time for tuning: add --tune, or leave it out.")
    if drift is not None and not tunes:
        raise DataError("--drift is for tuning: add --tune, or leave it out.")
    if html is not None and not html.absolute().parent.is_dir():
        raise DataError(f"{html} cannot be written: its folder is not there. Make it first.")
    from reckeeper.cli import evaluation_run as runs
    from reckeeper.cli.evaluation_files import Columns

    if compare:
        found = runs.compared(tune_seconds=tune_seconds, seed=seed)
        if as_json:
            print_json(found)
        else:
            print_comparison(found)
        return
    request = runs.Request(
        file=file,
        files=(train, test, history) if train and test else None,
        columns=Columns(
            user=user_column,
            item=item_column,
            weight=weight_column,
            time=time_column,
            time_unit=time_unit,
            type=type_column,
            rating=rating_column,
            min_rating=min_rating,
            delimiter=delimiter,
            encoding=encoding,
        ),
        users_table=users_table,
        items_table=items_table,
        split=None if split is None else split.value,
        repeats=repeats,
        max_users=users,
        wanted=_wanted(recipe or [], given),
        given=given,
        peers=peers,
        tunes=tunes,
        tune_seconds=tune_seconds,
        drift="none" if drift is None else drift.value,
        ks=ks,
        seed=seed,
    )
    report = runs.judged(request)
    if html is not None:
        from reckeeper.cli import evaluation_page

        evaluation_page.write(report, html)
    if as_json:
        typer.echo(json.dumps(report.to_json(), allow_nan=False))
    else:
        from reckeeper.cli import evaluation_report

        evaluation_report.print_report(report)
        if html is not None:
            typer.echo(f"The report is in {html}")


_COMPARES = (
    "--compare takes all recipes on the stored interactions, tunes, and judges by the policy: "
    "leave out --train, --test, --history, FILE, --recipe, --set, --peers, --tune, --html and --k."
)


def _check_cut(
    file: Path | None,
    files: tuple[Path | None, Path | None, Path | None],
    *,
    split: SplitName | None,
    repeats: bool,
) -> None:
    if any(files) and not (files[0] and files[1]):
        raise DataError("Files are judged with both of --train FILE and --test FILE.")
    if any(files) and (file or split or repeats):
        raise DataError(
            "--train and --test are cut already: leave out FILE, --split and --repeats."
        )
    if repeats and split not in (None, SplitName.NEXT):
        raise DataError("--repeats is for --split next alone: leave out one of them.")


def _check_recipes(
    recipes: Sequence[str], given: Mapping[str, Any], *, tunes: bool, needs_name: bool
) -> None:
    if tunes and (given or any(":" in one for one in recipes)):
        raise DataError("--tune is to find the settings: leave out either --tune or --set.")
    if given and len(recipes) > 1:
        raise DataError(
            "--set is for one recipe: with several, write --recipe NAME:KEY=VALUE,KEY=VALUE."
        )
    if given and not recipes and needs_name:
        raise DataError("--set is for one recipe: name it with --recipe.")


def _lengths(text: str) -> tuple[int, ...]:
    """Return the lengths of lists, ascending."""
    try:
        ks = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        ks = ()
    if not ks or not 1 <= ks[0] <= ks[-1] <= 1000:
        raise typer.BadParameter(f"--k {text}: give whole numbers from 1 to 1000, as 5,10,20.")
    return ks


def _wanted(recipes: Sequence[str], given: Mapping[str, Any]) -> "tuple[Wanted, ...]":
    """Return what ``NAME:KEY=VALUE,…`` asks for; settings of their own beside --set are refused."""
    from reckeeper.cli.evaluation_run import Wanted

    wanted: list[Wanted] = []
    for text in recipes:
        name, colon, settings = text.partition(":")
        own = parse_settings(settings.split(",")) if colon else {}
        if own and given:
            raise DataError(f"{text!r} has settings already: leave out --set, or write them there.")
        if text in (one.label for one in wanted):
            raise DataError(f"--recipe {text} is given twice: leave one out.")
        wanted.append(Wanted(name, own or given, text))
    return tuple(wanted)
