"""Finding out what a file is: kind, packing, encoding, delimiter, quotation marks."""

import contextlib
import csv
import dataclasses
import re
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from reckeeper.errors import DataError
from reckeeper.tabular import quotes, streams, translation
from reckeeper.tabular.encodings import certain_encoding_of, encoding_of
from reckeeper.tabular.forms import WHITE_SPACE, Form, Kind, Layout
from reckeeper.tabular.json_objects import json_kind
from reckeeper.tabular.workbook import is_workbook

_STRONG = (",", ";", "\t", "|", "::")
_MARKS = {
    b"PAR1": Kind.PARQUET,
    b"ARROW1": Kind.ARROW,
    b"\xff\xff\xff\xff": Kind.ARROW,  # a stream of it
}
_OLD_OFFICE = b"\xd0\xcf\x11\xe0"
_OLD_FEATHER = b"FEA1"
_SAMPLE_CHARACTERS = 64 * 1024
_FITS = 0.9
_COLUMNS_SHOWN = 6
_BETWEEN_WORDS = re.compile(r"[\s_.\-]+")
_SEPARATOR_LINE = re.compile(r'"?sep=(?P<delimiter>[^"\r\n]{1,8})"?(?:\r\n|\r|\n|\Z)', re.I)


def detect(path: Path, given: Form | None = None, *, known: Collection[str] = ()) -> Form:
    """Find out what a file is, as far as nobody says it.

    Parameters
    ----------
    path : Path
    given : Form, optional
        What is known of it, and stays as it is.
    known : collection of str
        Names that columns usually have, whatever their case and what is between words: where two
        delimiters fit, the one that finds more of them is taken.

    Returns
    -------
    Form
        With nothing left to be found out.

    Raises
    ------
    DataError
        It cannot be read or is empty, or two delimiters fit equally well.
    """
    given = given or Form()
    _check(path)
    try:
        with path.open("rb") as file:
            start = file.read(8)
    except OSError as exc:
        raise DataError(f"{path} cannot be read: {exc.strerror}.") from exc
    if not start:
        raise DataError(f"{path} is empty: it has no column names and no rows.")
    compression = given.compression or streams.compression_of(start)
    if compression == "zip" and is_workbook(path):
        return dataclasses.replace(given, kind=Kind.WORKBOOK, compression="none")
    if compression != "none":
        start = streams.start_of(path, compression)
    if kind := _binary_kind(path, start):
        if compression != "none":
            raise DataError(f"{path} has a file in it that is packed already: unpack it.")
        return dataclasses.replace(given, kind=kind, compression="none")
    if compression == "none":
        start = streams.start_of(path, compression)
    return _of_text(path, dataclasses.replace(given, compression=compression), start, known)


def _binary_kind(path: Path, start: bytes) -> Kind | None:
    if start.startswith(_OLD_OFFICE):
        raise DataError(
            f"{path} is a workbook of the old kind (.xls), or one with a password: save it as "
            ".xlsx without one, or as CSV."
        )
    if start.startswith(_OLD_FEATHER):
        raise DataError(f"{path} is Feather of version 1: write it again, as version 2 or Parquet.")
    return next((kind for mark, kind in _MARKS.items() if start.startswith(mark)), None)


def _check(path: Path) -> None:
    shown = str(path).encode(errors="backslashreplace").decode()
    if shown != str(path):
        raise DataError(f"The name of {shown} is not UTF-8: rename the file, then import it.")
    if path.is_dir():
        raise DataError(f"{path} is a folder and no regular file: name the files in it.")
    if path.exists() and not path.is_file():
        raise DataError(
            f"{path} is no regular file, and it is read twice: save it as one. An import reads "
            "standard input as -."
        )


def _of_text(path: Path, given: Form, start: bytes, known: Collection[str]) -> Form:
    skip_lines, delimiter = given.skip_lines or 0, given.delimiter
    encoding = given.encoding or certain_encoding_of(start)
    if encoding is None and _kind_of_json(start, given, "utf-8") is None:
        encoding = encoding_of(path, start, is_packed=given.compression != "none")
    encoding = encoding or "utf-8"
    if kind := _kind_of_json(start, given, encoding):
        return dataclasses.replace(
            given, kind=kind, encoding=encoding, delimiter=",", skip_lines=skip_lines
        )
    given = dataclasses.replace(given, kind=Kind.TEXT, encoding=encoding)
    if given.layout is Layout.LISTS:
        return dataclasses.replace(given, skip_lines=skip_lines)
    text, _ = translation.without_lines(translation.text_of(start, given), skip_lines)
    if line := _SEPARATOR_LINE.match(text):
        skip_lines += 1
        text = text[line.end() :]
        delimiter = delimiter or line["delimiter"]
    if delimiter is None:
        is_whole = len(text) <= _SAMPLE_CHARACTERS and len(start) < streams.START_BYTES
        delimiter = _delimiter(path, text[:_SAMPLE_CHARACTERS], given, known, is_whole=is_whole)
    fit = _fit(text, delimiter, given.has_quotes)
    has_escapes = given.has_escapes
    if has_escapes is None:
        has_escapes = fit.has_quotes and _has_escapes(text, delimiter, fit)
    return dataclasses.replace(
        given,
        delimiter=delimiter,
        has_quotes=fit.has_quotes,
        has_escapes=has_escapes,
        skip_lines=skip_lines,
    )


def _has_escapes(text: str, delimiter: str, fit: "_Fit") -> bool:
    if not quotes.has_escapes(text, delimiter):
        return False
    return _n_whole(_fit_as(text, delimiter, True, has_escapes=True)) >= _n_whole(fit)


def _kind_of_json(start: bytes, given: Form, encoding: str) -> Kind | None:
    if given.layout is Layout.LISTS:
        return None
    if given.kind is not None:
        return None if given.kind is Kind.TEXT else given.kind
    text = translation.text_of(start, dataclasses.replace(given, encoding=encoding))
    return json_kind(translation.without_lines(text, given.skip_lines or 0)[0])


class _Fit(NamedTuple):
    """How a text looks with a delimiter: its columns, and the share of rows that have as many."""

    columns: list[str]
    n_rows: int
    share: float
    has_quotes: bool


_NO_FIT = _Fit([], 0, 0.0, True)


def _delimiter(
    path: Path, text: str, given: Form, known: Collection[str], *, is_whole: bool
) -> str:
    fits = {
        sign: _fit(text, sign, given.has_quotes, is_whole=is_whole)
        for sign in (*_STRONG, WHITE_SPACE)
    }
    fits = {sign: fit for sign, fit in fits.items() if len(fit.columns) > 1}
    good = {sign: fit for sign, fit in fits.items() if fit.share >= _FITS}
    if not good:
        fits.pop(WHITE_SPACE, None)
        return "," if "," in fits or not fits else max(fits, key=lambda sign: fits[sign].share)
    if given.has_header:
        usual = set(map(_plain, known))
        n_known = {
            sign: len(usual.intersection(map(_plain, fit.columns))) for sign, fit in good.items()
        }
        most = max(n_known.values())
        good = {sign: fit for sign, fit in good.items() if n_known[sign] == most}
    if WHITE_SPACE in good and len(good) > 1:
        n_columns = {sign: len(fit.columns) for sign, fit in good.items()}
        # It stands in names and values, too; a tab, which is white space itself, hardly does.
        if (
            given.has_header
            or "\t" in good
            or n_columns[WHITE_SPACE]
            <= max(n for sign, n in n_columns.items() if sign != WHITE_SPACE)
        ):
            del good[WHITE_SPACE]
    if len(good) > 1 and not any(fit.n_rows for fit in good.values()):
        return next(iter(good))  # names of columns and nothing else
    if len(good) > 1:
        raise _ambiguous(path, good)
    return next(iter(good))


def _plain(name: str) -> str:
    return _BETWEEN_WORDS.sub("", name.casefold())


def _ambiguous(path: Path, good: dict[str, _Fit]) -> DataError:
    told = []
    for sign, fit in good.items():
        names = ", ".join(repr(name) for name in fit.columns[:_COLUMNS_SHOWN])
        more = ", …" if len(fit.columns) > _COLUMNS_SHOWN else ""
        told.append(f"--delimiter {option(sign)} gives the columns {names}{more}")
    return DataError(
        f"{path} can be read in {len(good)} ways: {'; '.join(told)}. Say which is meant.",
        details={"delimiters": list(good)},
    )


def option(delimiter: str) -> str:
    """Return a delimiter as the command line takes it."""
    return {"\t": "tab", WHITE_SPACE: WHITE_SPACE}.get(delimiter, f"'{delimiter}'")


def _fit(text: str, delimiter: str, has_quotes: bool | None, *, is_whole: bool = True) -> _Fit:
    """See how a text looks with a delimiter, and whether quotation marks mean something.

    They do, unless more rows are whole where they mean nothing, or they belong to values; between
    commas, semicolons and bars more rows alone don't say so, and between two signs they do only
    where more rows are whole then.
    """
    if has_quotes is not None:
        return _fit_as(text, delimiter, has_quotes, is_whole=is_whole)
    quoted = _fit_as(text, delimiter, True, is_whole=is_whole)
    if '"' not in text:
        return quoted
    plain = _fit_as(text, delimiter, False, is_whole=is_whole)
    if _n_whole(plain) >= _n_whole(quoted) and quotes.are_characters(text, delimiter):
        return plain
    if len(delimiter) == 1 and delimiter != "\t":
        return quoted
    if delimiter in ("\t", WHITE_SPACE):
        return plain if _n_whole(plain) > _n_whole(quoted) else quoted
    return quoted if _n_whole(quoted) > _n_whole(plain) else plain


def _n_whole(fit: _Fit) -> int:
    return round(fit.share * fit.n_rows) + bool(fit.columns)


def _fit_as(
    text: str,
    delimiter: str,
    has_quotes: bool,
    *,
    has_escapes: bool = False,
    is_whole: bool = True,
) -> _Fit:
    """See how a text looks; where it is not whole, its last row does not count."""
    rows = translation.rows_of(text, delimiter, has_quotes=has_quotes, has_escapes=has_escapes)
    header: list[str] = []
    lengths: list[int] = []
    with contextlib.suppress(csv.Error):
        for row in rows:
            if header and any(row):
                lengths.append(len(row))
            elif not header:
                header = row if any(row) else []
        if not is_whole:
            del lengths[-1:]
        share = lengths.count(len(header)) / len(lengths) if lengths else 1.0
        return _Fit(header, len(lengths), share, has_quotes)
    return _NO_FIT._replace(has_quotes=has_quotes)
