"""What `import` prints: what became of the rows, and how they were read."""

import re
from collections import Counter
from collections.abc import Iterable
from itertools import compress
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from reckeeper.cli.data import NEXT
from reckeeper.cli.terminal import warn

if TYPE_CHECKING:  # they bring Arrow's readers and SQL, which help does without
    from reckeeper.events import files


def print_report(
    console: Console,
    report: "files.ImportReport",
    *,
    source: str,
    demo_removed: int,
    database: str,
) -> None:
    """Print what became of the rows, and what to do next."""
    if demo_removed:
        console.print(
            f"The demo data ({demo_removed:,} interactions) and its models were removed: "
            "your own data replaces them.",
            highlight=False,
        )
    table = Table(title=f"Import {report.import_id}", show_header=False)
    table.add_row("accepted", f"{report.accepted:,}")
    table.add_row("duplicates", f"{report.duplicates:,}")
    table.add_row("seen without taste", f"{report.without_taste:,}")
    table.add_row("refused", f"{report.refused:,}")
    table.add_row("catalogue items new or changed", f"{report.items:,}")
    console.print(table)
    for name, form in report.read_as.items():
        console.print(f"{name} was read as {form}.", markup=False, highlight=False, soft_wrap=True)
    console.print(f"Written to {database}", markup=False, highlight=False, soft_wrap=True)
    print_refused(console, report)
    if report.duplicates and not report.accepted:
        console.print(
            f"All that could be read of {source} is there already. To read it in another way, undo "
            "the import that brought it: `reckeeper imports list`.",
            markup=False,
            highlight=False,
        )
    elif report.accepted:
        console.print(NEXT, highlight=False)


def print_refused(console: Console, report: "files.ImportReport") -> None:
    """Print why rows were refused, with a few of them, and where all are listed."""
    from reckeeper.events.refused import NO_WEIGHT

    is_of_type = [group.reason.startswith(NO_WEIGHT) for group in report.refusals]
    groups = zip(report.refusals, is_of_type, strict=True)
    lines = [_refusal(group) for group, is_type in groups if not is_type]
    if any(is_of_type):
        lines.append(_types_without_weight(compress(report.refusals, is_of_type)))
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if report.refused_report is not None:
        console.print(
            f"All refused rows are in {report.refused_report}", highlight=False, soft_wrap=True
        )


def _refusal(group: "files.RefusedGroup") -> str:
    """Return why rows of a file were refused, as one line."""
    places = [(f"{group.unit} {one.line}", repr(one.value)) for one in group.examples]
    if group.rows == 1:
        ((place, value),) = places
        return f"Refused: {group.file}, {place}: {group.column} {value} {group.reason}."
    told = ", ".join(f"{value} in {place}" for place, value in places)
    if group.rows > len(places):
        told += ", …"
    return f"Refused: {group.file}, {group.rows:,} rows: {group.column} {group.reason}: {told}."


def _types_without_weight(groups: "Iterable[files.RefusedGroup]") -> str:
    n_rows: Counter[str] = Counter()
    for group in groups:
        n_rows[group.examples[0].value] += group.rows
    told = ", ".join(f"{name} ({n:,} rows)" for name, n in n_rows.items())
    usable = [name for name in n_rows if re.fullmatch(r"[a-z][a-z0-9_]{0,63}", name)]
    if not usable:
        return (
            f"Refused: types that have no weight: {told}. Those that the policy knows are written "
            "in small letters, digits and _: change them in the file."
        )
    weights = ",".join(f"{name}=1" for name in usable)
    return f"Refused: types that have no weight: {told}. --weights {weights} gives them one each."


def tell_reading(
    report: "files.ImportReport", format: "files.FileFormat", *, with_guesses: bool
) -> None:
    """Say what columns were taken for by their names alone, and what else should be known."""
    from reckeeper.events.columns import WORDS

    given = [value for value in vars(format).values() if isinstance(value, str)]
    guessed = {
        part: column for part, column in report.columns.items() if column not in (part, *given)
    }
    if guessed and with_guesses:
        told = ", ".join(f"{column!r} as the {WORDS[part]}" for part, column in guessed.items())
        warn(f"Told by their names: {told}.")
    for note in report.notes:
        warn(note)
