"""What options say of columns: what each means, and how its values are read."""

from enum import StrEnum
from typing import Annotated

import typer


class DecimalSign(StrEnum):
    """What stands before the fraction of a number."""

    COMMA = "comma"
    POINT = "point"


UserColumn = Annotated[
    str | None,
    typer.Option(help="Default: user_id, or another name that people use, such as customer."),
]
ItemColumn = Annotated[
    str | None, typer.Option(help="Default: item_id, or another name that people use, such as sku.")
]
CatalogueItemColumn = Annotated[
    str | None, typer.Option(help="Column of ids in the catalogue. Default: as --item-column.")
]
TitleColumn = Annotated[
    str | None, typer.Option(help="Column of titles in the catalogue. Default: title.")
]
CategoryColumn = Annotated[
    str | None,
    typer.Option(
        help="Column of categories in the catalogue. Default: categories, where there is one."
    ),
]
TypeColumn = Annotated[
    str | None,
    typer.Option(help="Default: interaction_type, or such as event, where there is one."),
]
InteractionType = Annotated[
    str | None, typer.Option(help="Type of all rows without such a column. Default: click.")
]
WeightColumn = Annotated[
    str | None, typer.Option(help="Default: weight, where there is one; else 1.")
]
TimeColumn = Annotated[
    str | None,
    typer.Option(help="Default: occurred_at, or such as timestamp, where there is one; else now."),
]
TimeUnit = Annotated[
    str | None,
    typer.Option(
        help="Unit of times that are numbers: s, ms, us or ns. Default: told from their size."
    ),
]
DefaultTime = Annotated[
    str | None,
    typer.Option(
        help="What an empty time is taken for: now, or a time such as 2025-12-04T23:42:15Z. "
        "Default: its row is refused."
    ),
]
AllowOld = Annotated[
    bool,
    typer.Option("--allow-old", help="Take times before 1990, which are refused as a mistake."),
]
EventIdColumn = Annotated[
    str | None,
    typer.Option(help="Column that names each row. Default: event_id, where there is one."),
]
Null = Annotated[
    list[str] | None,
    typer.Option(
        "--null",
        metavar="WORD",
        help="A word that stands for nothing; may be repeated. Default: NULL, null, None, nan, "
        "NaN, \\\\N and <NA>.",
    ),
]
RatingColumn = Annotated[
    str | None, typer.Option(help="Column of ratings, for --min-rating. Default: rating.")
]
MinRating = Annotated[
    float | None, typer.Option(help="Store rows with a lower rating as seen, not liked.")
]
TimeFormat = Annotated[
    str | None,
    typer.Option(
        help="How times are written, as for strptime: '%d.%m.%Y %H:%M'. Default: told from the "
        "column."
    ),
]
Timezone = Annotated[
    str | None,
    typer.Option(
        help="Where the clock hangs that showed times without a zone, such as Europe/Berlin. "
        "Default: UTC."
    ),
]
Decimal = Annotated[
    DecimalSign | None,
    typer.Option(help="What stands before the fraction of numbers. Default: told from the column."),
]
Weights = Annotated[
    str | None,
    typer.Option(
        metavar="TYPE=WEIGHT,...",
        help="Weights of interaction types, which the policy keeps: view=1,cart=3,purchase=5.",
    ),
]
