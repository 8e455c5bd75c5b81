"""How people write times: regular expressions, whose groups have the parts of a time.

The groups are ``year`` or ``short_year``, ``month`` or ``month_word``, ``day``, ``hour``,
``minute``, ``second``, ``fraction``, ``half`` (of the day), ``sign``, ``offset_hour`` and
``offset_minute``; what a pattern lacks is at its least.
"""

import re

from reckeeper.errors import DataError

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")

UTC_AT_END = r"(?:[Zz]|UTC|GMT)\)?(?: \d{4})?$"
"""What says that a time is in UTC, where it has no offset."""

_OFFSET = r"(?P<sign>[+-])(?P<offset_hour>\d{2})(?::?(?P<offset_minute>\d{2}))?"
_ZONE = rf"(?:[Zz]| UTC| GMT| ?{_OFFSET}(?: \(?[A-Z]{{3,5}}\)?)?)?"
_CLOCK = (
    r"(?P<hour>\d{1,2}):(?P<minute>\d{2})(?::(?P<second>\d{2})(?:[.,](?P<fraction>\d{1,9}))?)?"
    r"(?: ?(?P<half>[AaPp])\.?[Mm]\.?)?"
)

# The forms that the message takes, and with the offset or the time of day left out; and those that
# PostgreSQL (+00), BigQuery (UTC) and Go (+0000 UTC) write.
ISO = (
    r"^(?P<year>\d{4})-(?P<month>\d{2})-(?P<day>\d{2})"
    r"(?:[Tt _](?P<hour>\d{2}):(?P<minute>\d{2})"
    r"(?::(?P<second>\d{2})(?:[.,](?P<fraction>\d{1,9}))?)?"
    rf"(?:[Zz]| UTC| ?{_OFFSET}(?: [A-Z]{{3,5}})?)?)?$"
)

_WEEKDAY = r"^(?:[A-Za-z]{3,9}\.?,? )?"
OTHERS = (
    # 20130528T101112Z
    r"^(?P<year>\d{4})-?(?P<month>\d{2})-?(?P<day>\d{2})[Tt_ ](?P<hour>\d{2}):?(?P<minute>\d{2})"
    rf"(?::?(?P<second>\d{{2}})(?:[.,](?P<fraction>\d{{1,9}}))?)?{_ZONE}$",
    # 2013/5/28 9:05, 2013.05.28
    rf"^(?P<year>\d{{4}})[-/.](?P<month>\d{{1,2}})[-/.](?P<day>\d{{1,2}})"
    rf"(?:[Tt ,_]+{_CLOCK})?{_ZONE}$",
    # Tue, 28 May 2013 10:11:12 +0200, as in e-mail; 28-May-2013; 28/May/2013:10:11:12 +0200
    rf"{_WEEKDAY}(?P<day>\d{{1,2}})[ /-](?P<month_word>[A-Za-z]{{3,9}})\.?,?[ /-](?P<year>\d{{4}})"
    rf"(?:[ :T,]+{_CLOCK})?{_ZONE}$",
    # May 28, 2013 10:11 AM
    rf"{_WEEKDAY}(?P<month_word>[A-Za-z]{{3,9}})\.? (?P<day>\d{{1,2}}),? (?P<year>\d{{4}})"
    rf"(?:[ ,]+{_CLOCK})?{_ZONE}$",
    # Tue May 28 10:11:12 +0000 2013
    rf"^[A-Za-z]{{3}} (?P<month_word>[A-Za-z]{{3}}) {{1,2}}(?P<day>\d{{1,2}}) {_CLOCK}{_ZONE}"
    r" (?P<year>\d{4})$",
)
"""Forms that say by themselves what they mean."""

_REST = rf"(?P<year>\d{{4}})(?:[Tt ,]+{_CLOCK})?{_ZONE}$"
NUMERIC = rf"^(?P<first>\d{{1,2}})(?P<between>[/.-])(?P<next>\d{{1,2}})[/.-]{_REST}"
"""Dates that begin with the day or the month."""

SHORT_YEAR = r"^\d{1,2}[/.-]\d{1,2}[/.-]\d{2}(?:[Tt ,].*)?$"


def numeric(first: str) -> str:
    """Return the pattern of `NUMERIC` with the ``day`` first, or the ``month``."""
    names = ("day", "month") if first == "day" else ("month", "day")
    return rf"^(?P<{names[0]}>\d{{1,2}})[/.-](?P<{names[1]}>\d{{1,2}})[/.-]{_REST}"


_DIRECTIVES = {
    "Y": r"(?P<year>\d{4})",
    "y": r"(?P<short_year>\d{2})",
    "m": r"(?P<month>\d{1,2})",
    "b": r"(?P<month_word>[A-Za-z]{3,9})\.?",
    "d": r"(?P<day>\d{1,2})",
    "a": r"[A-Za-z]{2,9}\.?",
    "H": r"(?P<hour>\d{1,2})",
    "M": r"(?P<minute>\d{1,2})",
    "S": r"(?P<second>\d{1,2})",
    "f": r"(?P<fraction>\d{1,9})",
    "p": r"(?P<half>[AaPp])\.?[Mm]\.?",
    "z": rf"(?:[Zz]|{_OFFSET})",
    "Z": r"(?:UTC|GMT|Z)",
    "%": "%",
}
_DIRECTIVES |= {"B": _DIRECTIVES["b"], "e": _DIRECTIVES["d"], "I": _DIRECTIVES["H"]}
_DIRECTIVES |= {"h": _DIRECTIVES["b"], "A": _DIRECTIVES["a"]}
_SHORT = {"T": "%H:%M:%S", "R": "%H:%M", "F": "%Y-%m-%d", "D": "%m/%d/%y"}


def of_format(form: str) -> str:
    """Return the pattern of times that `strptime` reads by a format.

    Raises
    ------
    DataError
        The format cannot be used.
    """
    for name, longer in _SHORT.items():
        form = form.replace(f"%{name}", longer)
    parts = []
    for text, directive in re.findall(r"([^%]+)|%[-0_]?(.?)", form):
        if text:
            parts.append(re.sub(r"\s+", r"\\s+", re.escape(text).replace("\\ ", " ")))
        elif directive in _DIRECTIVES:
            parts.append(_DIRECTIVES[directive])
        else:
            raise _unfit(form, f"%{directive} is not known here")
    pattern = f"^{''.join(parts)}$"
    try:
        groups = re.compile(pattern).groupindex
    except re.error as exc:
        raise _unfit(form, "it has a part twice") from exc
    if not groups.keys() & {"year", "short_year"} or not groups.keys() & {"month", "month_word"}:
        raise _unfit(form, "it lacks the year or the month")
    return pattern


def _unfit(form: str, reason: str) -> DataError:
    return DataError(
        f"The time format {form!r} cannot be used: {reason}. Write it as for strptime, such as "
        "%d.%m.%Y %H:%M."
    )


def likely_format(text: str, first: str) -> str:
    """Return the format in which a date of numbers is written, if the day or month is first."""
    between = re.sub(r"\d", "", text)[0]
    days = ("%d", "%m") if first == "day" else ("%m", "%d")
    _, _, rest = text.partition(between)
    clock = re.sub(r"^\d+\D\d{4}", "", rest)
    hour = "%I" if re.search("[AaPp]\\.?[Mm]", clock) else "%H"
    clock = re.sub(r"\d{1,2}(?=:)", hour, clock, count=1)
    clock = re.sub(r":\d{2}", ":%M", clock, count=1)
    clock = re.sub(r":\d{2}", ":%S", clock, count=1)
    clock = re.sub(r"([.,])\d+", r"\1%f", clock, count=1)
    clock = re.sub(r"[AaPp]\.?[Mm]\.?", "%p", clock)
    clock = re.sub(r"[+-]\d{2}:?\d{2}|Z$", "%z", clock)
    return f"{days[0]}{between}{days[1]}{between}%Y{clock}"
