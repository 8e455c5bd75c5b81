"""Which column is which part of an interaction: as was said, or by its name."""

import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

OPTIONS = {
    "user_id": "--user-column",
    "item_id": "--item-column",
    "interaction_type": "--type-column",
    "weight": "--weight-column",
    "occurred_at": "--time-column",
    "event_id": "--event-id-column",
    "rating": "--rating-column",
}
"""Each part, and the option of the command line that names its column."""

REQUIRED = ("user_id", "item_id")

# From the surest to the vaguest; without regard to case, spaces, _, - and dots.
_NAMES: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "user_id": (
        ("userid",),
        (
            *("uid", "customerid", "customernumber", "customerno", "custid", "clientid"),
            *("visitorid", "reviewerid", "memberid", "accountid", "userkey", "useruuid", "msno"),
            *("kundenid", "kundennr", "kundennummer", "benutzerid", "personid", "buyerid"),
            *("profileid", "shopperid", "subscriberid", "userpseudoid"),
        ),
        (
            *("user", "username", "customer", "client", "visitor", "reviewer", "member", "account"),
            *("kunde", "benutzer", "buyer", "person"),
        ),
        ("sessionid", "session", "cookieid", "deviceid", "anonymousid"),
    ),
    "item_id": (
        ("itemid",),
        (
            *("iid", "movieid", "productid", "sku", "asin", "isbn", "businessid", "articleid"),
            *("trackid", "songid", "artistid", "stockcode", "bookid", "gameid", "animeid", "appid"),
            *("videoid", "newsid", "contentid", "recipeid", "venueid", "locationid", "poiid"),
            *(
                "adid",
                "goodid",
                "goodsid",
                "materialid",
                "articlenumber",
                "productcode",
                "itemcode",
            ),
            *("artikelid", "artikelnr", "artikelnummer", "produktid", "ean", "gtin", "hotelid"),
            *("courseid", "jobid", "postid", "storyid", "placeid", "showid", "filmid", "offerid"),
        ),
        (
            *("item", "product", "article", "movie", "track", "song", "artist", "book", "game"),
            *("video", "artikel", "produkt", "film", "content"),
        ),
    ),
    "interaction_type": (
        ("interactiontype",),
        (
            *("eventtype", "eventname", "actiontype", "feedbacktype", "behaviortype"),
            *("behaviourtype", "interaction", "activitytype"),
        ),
        ("event", "action", "behavior", "behaviour", "activity", "aktion", "ereignis"),
        ("type",),
    ),
    "weight": (("weight",),),
    "occurred_at": (
        ("occurredat",),
        (
            *("timestamp", "eventtime", "eventtimestamp", "createdat", "datetime", "ts"),
            *("eventts", "unixtime", "unixreviewtime", "unixtimestamp", "eventdate", "invoicedate"),
            *("orderdate", "purchasedate", "purchasedat", "orderedat", "boughtat", "viewedat"),
            *("clickedat", "ratedat", "reviewdate", "reviewedat", "eventat", "happenedat"),
            *("utctime", "timems", "timestampms", "epoch", "zeitstempel", "createdtime"),
            *("bestelldatum", "kaufdatum", "rechnungsdatum", "bestellzeit", "zeitpunkt"),
            *("creationdate", "creationtime", "datecreated", "createdate", "visitedat"),
        ),
        ("date", "time", "datum", "zeit", "day"),
    ),
    "event_id": (("eventid",),),
    "rating": (
        ("rating",),
        ("ratings", "stars", "starrating", "score", "overall", "userrating", "reviewscore"),
        ("bewertung", "sterne"),
    ),
}

USUAL = frozenset(name for names in _NAMES.values() for likely in names for name in likely)
"""All names that people use for a part, in small letters with nothing between words."""

_TIME_WORDS = frozenset(
    ("date", "time", "datetime", "timestamp", "ts", "at", "on", "datum", "zeit", "day")
)
"""One of these in a column's name says that it could hold times."""

_TITLES = (
    ("title",),
    (
        *("titel", "itemtitle", "producttitle", "movietitle", "booktitle", "articletitle"),
        *("itemname", "productname", "articlename", "artikelname", "produktname", "artikeltitel"),
    ),
    ("name", "bezeichnung", "artikelbezeichnung"),
)

_BETWEEN = re.compile(r"[\s_.\-]+")
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_MOST_DOTS = 2
_TIMES_SHOWN = 3


@dataclass(frozen=True)
class Part:
    """A part of an interaction, its column, and why: it was ``given``, ``named`` so, or guessed."""

    part: str
    column: str
    rule: str

    @property
    def is_guess(self) -> bool:
        """Whether the name is one that people use, and not the part's own."""
        return self.rule == "guessed"


@dataclass(frozen=True)
class Choice:
    """A part whose column has to be said: which it could be, and the option that says it."""

    part: str
    columns: list[str]
    option: str
    is_missing: bool

    @property
    def sentence(self) -> str:
        """What is to be decided."""
        words = WORDS[self.part]
        names = [repr(name) for name in self.columns]
        if self.is_missing:
            return f"no column is known to be the {words}; there are {', '.join(names)}"
        return f"{', '.join(names[:-1])} and {names[-1]} could each be the {words}"


WORDS = {
    "user_id": "user",
    "item_id": "item",
    "interaction_type": "type",
    "weight": "weight",
    "occurred_at": "time",
    "event_id": "event id",
    "rating": "rating",
}
"""Each part as people call it."""


@dataclass(frozen=True)
class Found:
    """What the columns of a table were found to be.

    Attributes
    ----------
    parts : list of Part
    choices : list of Choice
        What has to be said first.
    notes : list of str
        What should be known of the columns that are left out.
    """

    parts: list[Part]
    choices: list[Choice]
    notes: list[str]

    @property
    def columns(self) -> dict[str, str]:
        """The column of each part."""
        return {part.part: part.column for part in self.parts}

    @property
    def guesses(self) -> list[Part]:
        """The parts that were told from a name that people use."""
        return [part for part in self.parts if part.is_guess]


def find(
    columns: Sequence[str], given: Mapping[str, str | None], *, has_least_rating: bool
) -> Found:
    """Find the column of each part of an interaction.

    Parameters
    ----------
    columns : sequence of str
        The table's.
    given : mapping of str to str or None
        What was said of each part; empty: it has no column.
    has_least_rating : bool
        Whether ratings are asked for.
    """
    parts = [Part(part, column, "given") for part, column in given.items() if column]
    choices: list[Choice] = []
    notes: list[str] = []
    for part in OPTIONS:
        if given.get(part) is not None:
            continue
        taken = {one.column for one in parts}
        likely = _likely(columns, part, taken=taken)
        if part == "rating" and not has_least_rating:
            if likely:
                notes.append(
                    f"The column {likely[0]!r} is not used: with --min-rating it says which rows "
                    "are of taste, and which were only seen."
                )
        elif part in columns and part not in taken:
            parts.append(Part(part, part, "named"))
        elif len(likely) == 1:
            parts.append(Part(part, likely[0], "guessed"))
        elif likely:
            choices.append(Choice(part, likely, OPTIONS[part], is_missing=False))
        elif part in REQUIRED or part == "rating":
            choices.append(Choice(part, list(columns), OPTIONS[part], is_missing=True))
    return Found(parts, choices, notes)


def notes_on_late(late: Mapping[str, int], parts: Sequence[str]) -> list[str]:
    """Say which columns could be parts that have none, and are not used: the first rows lack them.

    Parameters
    ----------
    late : mapping of str to int
        Each such column with the first row that has it; 0: nobody knows.
    parts : sequence of str
    """
    notes = []
    for part in parts:
        for name in _likely([*late], part, taken=()):
            where = f"before object {late[name]:,}" if late[name] else "of the first million"
            least = ", with --min-rating" if part == "rating" else ""
            notes.append(
                f"No object {where} has {name!r}, which could be the {WORDS[part]}; it is not "
                f"used. {OPTIONS[part]} {shlex.quote(name)} takes it{least}."
            )
    return notes


def notes_on_unknown_times(columns: Sequence[str], found: Found) -> list[str]:
    """Say which columns could be times by a word in their names, where none is known to be.

    The rows are taken as of now then, which would be wrong without a word.
    """
    taken = {*found.columns.values()}
    if "occurred_at" in found.columns or any(one.part == "occurred_at" for one in found.choices):
        return []
    likely = [name for name in columns if name not in taken and _TIME_WORDS & _words_of(name)]
    if not likely:
        return []
    names = " or ".join(repr(name) for name in likely[:_TIMES_SHOWN])
    option = f"{OPTIONS['occurred_at']} {shlex.quote(likely[0])}"
    return [
        f"No column is known to be the time, so rows are taken as of now. {names} could be it: "
        f"{option} takes it, and {OPTIONS['occurred_at']} '' says that there is none."
    ]


def _words_of(name: str) -> set[str]:
    """Return the words of a column's name, which begin with capitals or stand between signs."""
    return {word.casefold() for word in _WORD.findall(name)}


def find_items(columns: Sequence[str]) -> list[str]:
    """Return the columns of a catalogue that could be the item's id, all as likely."""
    return _likely(columns, "item_id", taken=())


def find_titles(columns: Sequence[str]) -> list[str]:
    """Return the columns of a catalogue that could be the title, all as likely."""
    return _first(columns, _TITLES)


def _likely(columns: Sequence[str], part: str, *, taken: Collection[str]) -> list[str]:
    """Return the columns that could be a part, all as likely as each other."""
    others = {other for other in OPTIONS if other != part and other in columns}
    free = [name for name in columns if name not in taken and name not in others]
    return _first(free, _NAMES[part])


def _first(columns: Sequence[str], sought: Sequence[Sequence[str]]) -> list[str]:
    """Return the columns that have the surest of the sought names.

    Whole names come first, then what stands behind dots: lines.sku is the sku of lines.
    """
    for n_dots in range(_MOST_DOTS + 1):
        plain = {
            name: _BETWEEN.sub("", name.split(".", n_dots)[-1].casefold())
            for name in columns
            if name.count(".") >= n_dots
        }
        for names in sought:
            if likely := [name for name in plain if plain[name] in names]:
                return likely
    return []


def looks_like_a_row(names: Sequence[str]) -> bool:
    """Say whether what was taken for names of columns looks like values: most hold a number."""
    n_numbers = sum(
        bool(re.fullmatch(r"\s*[+-]?[\d.,:/ TZ-]*\d[\d.,:/ TZ-]*", name)) for name in names
    )
    return n_numbers * 2 >= len(names)
