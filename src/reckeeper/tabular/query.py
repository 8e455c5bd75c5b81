"""A query on any database that SQLAlchemy knows, read in bounded memory and never written to."""

import contextlib
import datetime
import decimal
import functools
import hashlib
import re
import sqlite3
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import sqlalchemy as sa

from reckeeper.errors import DataError, StorageError

BUSY_TIMEOUT_SECONDS = 60
"""How long an SQLite file that somebody is writing to is waited for."""

# Rows may be wide, and all their columns are fetched: so many of them are held at once.
_FETCH_ROWS = 5_000
_QUERY_SHOWN = 300
_VALUE_SHOWN = 100
_LARGEST_EXACT = 2**53

_HIDDEN = "hidden"
_SECRET_NAME = re.compile(r"pass|pwd|secret|token|credential|key", re.IGNORECASE)
_SECRET_PART = re.compile(r"(?i)\b(pwd|password|uid|user id)\s*=\s*(\{[^}]*\}|[^;]*)")
_SHORTEST_SECRET = 4
"""A shorter password would be found in the middle of words."""

# Where the package is not named as the module is.
_PACKAGES = {
    "MySQLdb": "mysqlclient",
    "psycopg": "'reckeeper[postgres]'",
    "psycopg2": "psycopg2-binary",
}

_URL_FORMS = "postgresql+psycopg://user@host/name or sqlite:////path/to/file.db"


class Unfit(NamedTuple):
    """A value that cannot be used, and so its row; rows are counted from 1."""

    row: int
    column: str
    value: str
    reason: str


class Rows(NamedTuple):
    """Some rows of a result, each with its number, counted from 1, and those left out.

    The columns are text, bytes, whole numbers, floats, truth values, dates,
    times in microseconds UTC, or nulls alone.
    """

    columns: dict[str, pa.Array]
    numbers: np.ndarray
    unfit: list[Unfit]


class Query:
    """A query, and the database that it is put to; shown without passwords.

    Parameters
    ----------
    url : str
        As SQLAlchemy writes it. A relative path of an SQLite file is taken
        from the current directory.
    text : str
        SQL that gives rows.

    Raises
    ------
    DataError
        The URL is none, its driver is not installed or not fit, or the query
        is empty.
    """

    def __init__(self, url: str, text: str) -> None:
        self._url = _parsed(url)
        self.text = text.strip().rstrip(";").rstrip()
        if not self.text:
            raise DataError("The query is empty: give a SELECT.")
        if self._is_sqlite:
            self._url = _existing_file(self._url)

    @property
    def masked_url(self) -> str:
        """The URL without passwords."""
        return _without_secrets(self._url).render_as_string(hide_password=True)

    @property
    def name(self) -> str:
        """The masked URL with the query, on one line and not longer than some 400 characters."""
        text = " ".join(self.text.split())
        if len(text) > _QUERY_SHOWN:
            text = f"{text[:_QUERY_SHOWN]}…"
        return f"{self.masked_url} ({text})"

    @property
    def database_id(self) -> str:
        """What names the database: the URL without driver, user and passwords."""
        url = sa.URL.create(
            self._url.get_backend_name(),
            host=self._url.host,
            port=self._url.port,
            database=self._url.database,
            query=_without_secrets(self._url).query,
        )
        return url.render_as_string()

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of database and query, in hexadecimal."""
        return hashlib.sha256(f"{self.database_id}\n{self.text}".encode()).hexdigest()

    def __repr__(self) -> str:
        return f"Query({self.masked_url!r}, {self.text!r})"

    @contextlib.contextmanager
    def open(self) -> Iterator["Result"]:
        """Run the query and give its result; it can be read by one thread after another.

        PostgreSQL is asked in a transaction that cannot write, by a cursor on
        its side; an SQLite file is opened to be read alone. Elsewhere what
        the query might write is rolled back.

        Raises
        ------
        StorageError
            The database cannot be reached, or does not let this user in.
        DataError
            It does not accept the query, or that gives no rows.
        """
        engine = self._engine()
        try:
            connection = engine.connect()
        except (sa.exc.DBAPIError, sqlite3.Error) as exc:
            seen = (
                "it may be read"
                if self._is_sqlite
                else "it runs, and that host, port, database, user and password are right"
            )
            raise StorageError(
                f"The database {self.masked_url} cannot be reached: {self._reason(exc)}. See "
                f"that {seen}; then try again."
            ) from exc
        with connection:
            with self._translated("the query cannot be run"):
                result = connection.execution_options(
                    stream_results=True, no_parameters=True, postgresql_readonly=True
                ).exec_driver_sql(self.text)
            if not result.returns_rows:
                raise DataError(f"{self.name} gives no rows, and was taken back: give a SELECT.")
            with contextlib.closing(result):
                yield Result(self, result)

    @property
    def _is_sqlite(self) -> bool:
        return self._url.get_backend_name() == "sqlite"

    def _engine(self) -> sa.Engine:
        url, options = self._url, {}
        if self._is_sqlite:
            options = {"timeout": BUSY_TIMEOUT_SECONDS}
            if "uri" not in url.query:
                place = Path(str(url.database)).as_uri()
                url = url.set(database=place, query={"uri": "true", "mode": "ro"})
        engine = sa.create_engine(url, poolclass=sa.NullPool, connect_args=options)
        if self._is_sqlite:
            sa.event.listen(engine, "connect", _take_any_text)
        return engine

    @contextlib.contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        try:
            yield
        except (sa.exc.DBAPIError, sqlite3.Error) as exc:
            told = f"{self.name}: {what}: {self._reason(exc, first_line=True)}."
            if self._is_transient(exc):
                raise StorageError(
                    f"{told} Check that the database is running, then try again."
                ) from exc
            raise DataError(
                f"{told} An import takes one query that reads and does not write: correct it."
            ) from exc

    def _is_transient(self, exc: Exception) -> bool:
        origin = exc.orig if isinstance(exc, sa.exc.DBAPIError) else exc
        if isinstance(origin, sqlite3.Error):
            busy = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_IOERR)
            return getattr(origin, "sqlite_errorcode", 0) & 0xFF in busy
        return isinstance(exc, sa.exc.OperationalError | sa.exc.InterfaceError)

    def _reason(self, exc: Exception, *, first_line: bool = False) -> str:
        text = str(exc.orig if isinstance(exc, sa.exc.DBAPIError) else exc).strip()
        if first_line:
            text = text.partition("\n")[0]
        secrets = [self._url.password or ""]
        secrets += [
            value
            for name, values in self._url.normalized_query.items()
            if _SECRET_NAME.search(name)
            for value in values
        ]
        for secret in secrets:
            if len(secret) >= _SHORTEST_SECRET:
                text = text.replace(secret, "***")
        return " ".join(text.split()).rstrip(".")


class Result:
    """The rows of a query that runs; made by `Query.open`.

    Attributes
    ----------
    columns : list of str
        Two may have one name.
    """

    def __init__(self, query: Query, result: sa.CursorResult[Any]) -> None:
        self.columns = list(result.keys())
        self._query = query
        self._result = result

    def read(self, wanted: Sequence[str], *, at_most: int) -> Iterator[Rows]:
        """Give the rows in their order, at most so many at a time.

        Raises
        ------
        DataError
            A column has values of a type that an import cannot use, or the
            database found an error in the middle.
        StorageError
            The connection was lost.
        """
        places = {name: self.columns.index(name) for name in wanted}
        held: dict[str, list[Any]] = {name: [] for name in wanted}
        n_held, first = 0, 1
        while rows := self._fetch(min(_FETCH_ROWS, at_most), after=first + n_held - 1):
            fetched = list(zip(*rows, strict=True))
            for name, place in places.items():
                held[name].extend(fetched[place])
            n_held += len(rows)
            if n_held + _FETCH_ROWS > at_most:
                yield _rows(held, n_held, first=first)
                first, n_held = first + n_held, 0
                held = {name: [] for name in wanted}
        if n_held:
            yield _rows(held, n_held, first=first)

    def _fetch(self, n_rows: int, *, after: int) -> Sequence[sa.Row[Any]]:
        with self._query._translated(f"it cannot be read beyond row {after}"):
            return self._result.fetchmany(n_rows)


def _parsed(url: str) -> sa.URL:
    try:
        parsed = sa.make_url(url.strip())
        dialect = parsed.get_dialect()
        dialect.import_dbapi()
    except sa.exc.NoSuchModuleError as exc:
        raise DataError(
            f"SQLAlchemy does not know {parsed.drivername!r}: write the URL as {_URL_FORMS}; for "
            "another database install the package that brings its SQLAlchemy dialect."
        ) from exc
    except (sa.exc.ArgumentError, ValueError) as exc:
        shown = re.sub(r"(://[^:/@]*):.*@", r"\1:***@", url.partition("?")[0])
        raise DataError(
            f"{shown!r} is not a database URL. Write it as {_URL_FORMS}; a "
            "character such as @ or / in a password is percent-encoded."
        ) from exc
    except ModuleNotFoundError as exc:
        package = _PACKAGES.get(str(exc.name), str(exc.name))
        raise DataError(
            f"The driver of {parsed.drivername!r} is not installed: `python -m pip install "
            f"{package}` in Reckeeper's environment brings it."
        ) from exc
    if dialect.is_async:
        raise DataError(
            f"The driver of {parsed.drivername!r} is asynchronous, which an import is not: name "
            f"another, as in {_URL_FORMS}."
        )
    return parsed


def _existing_file(url: sa.URL) -> sa.URL:
    """Return the URL of an SQLite file with its whole path; SQLite would make a missing one."""
    if "uri" in url.query:
        return url
    if not url.database or url.database == ":memory:":
        raise DataError("An SQLite URL names a file: write sqlite:////path/to/file.db.")
    file = Path(url.database).resolve()
    if not file.is_file():
        raise DataError(f"There is no SQLite file {file}: correct the URL.")
    return url.set(database=str(file))


def _without_secrets(url: sa.URL) -> sa.URL:
    """Return a URL whose parameters hold no password, nor a user that stands in an ODBC text."""
    shown = {
        name: [
            _HIDDEN if _SECRET_NAME.search(name) else _SECRET_PART.sub(rf"\1={_HIDDEN}", value)
            for value in values
        ]
        for name, values in url.normalized_query.items()
    }
    return url.set(query=shown)


def _take_any_text(dbapi_connection: Any, _record: Any) -> None:
    # One value that is not UTF-8 is to cost its row alone.
    dbapi_connection.text_factory = functools.partial(
        str, encoding="utf-8", errors="surrogateescape"
    )


def _rows(held: dict[str, list[Any]], n_rows: int, *, first: int) -> Rows:
    columns = {}
    unfit: dict[int, Unfit] = {}
    for name, values in held.items():
        columns[name], reasons = _array(name, values, first=first)
        for index, reason in reasons.items():
            shown = str(values[index]).encode(errors="backslashreplace").decode()
            unfit.setdefault(index, Unfit(first + index, name, shown[:_VALUE_SHOWN], reason))
    numbers = np.arange(first, first + n_rows)
    if unfit:
        is_fit = np.ones(n_rows, dtype=bool)
        is_fit[list(unfit)] = False
        columns = {name: values.filter(pa.array(is_fit)) for name, values in columns.items()}
        numbers = numbers[is_fit]
    return Rows(columns, numbers, [unfit[index] for index in sorted(unfit)])


_TYPES: dict[type, pa.DataType | None] = {
    bool: pa.bool_(),
    int: pa.int64(),
    float: pa.float64(),
    str: pa.string(),
    bytes: pa.binary(),
    datetime.datetime: pa.timestamp("us", tz="UTC"),  # one without a zone is taken as UTC
    datetime.date: pa.date32(),
    # As text, which is exact.
    decimal.Decimal: None,
    uuid.UUID: None,
    bytearray: None,
    memoryview: None,
}
"""What drivers give, a subclass before its base, and how a column of it alone is held."""


def _array(name: str, values: list[Any], *, first: int) -> tuple[pa.Array, dict[int, str]]:
    """Return a column, null where a value cannot be used, and the reasons of these."""
    kinds = set()
    for kind in {type(value) for value in values} - {type(None)}:
        base = next((base for base in _TYPES if issubclass(kind, base)), None)
        if base is None:
            row = first + next(at for at, value in enumerate(values) if type(value) is kind)
            raise DataError(
                f"The column {name!r} has values of the type {kind.__name__}, the first in row "
                f"{row}: an import takes text, numbers, dates and times. Convert it in the query, "
                "as with CAST(… AS TEXT)."
            )
        kinds.add(base)
    if not kinds:
        return pa.nulls(len(values)), {}
    type_of_all = _TYPES[kinds.pop()] if len(kinds) == 1 else None
    if type_of_all is not None:
        # Too large for 64 bits, or with a half of a surrogate pair.
        with contextlib.suppress(OverflowError, UnicodeEncodeError):
            return pa.array(values, type_of_all), {}
    texts, reasons = [], {}
    for index, value in enumerate(values):
        try:
            texts.append(_text(value))
        except ValueError as exc:
            texts.append(None)
            reasons[index] = str(exc)
    return pa.array(texts, pa.string()), reasons


def _text(value: Any) -> str | None:
    """Return a value as text, a whole number as its digits.

    Raises
    ------
    ValueError
        It has no sensible text; says why.
    """
    if isinstance(value, decimal.Decimal | float) and not _is_finite(value):
        raise ValueError("is not a finite number")
    if isinstance(value, decimal.Decimal):
        text = format(value, "f")
        return text.rstrip("0").rstrip(".") if "." in text else text
    if isinstance(value, float):
        is_whole = value.is_integer() and abs(value) <= _LARGEST_EXACT
        return str(int(value)) if is_whole else repr(value)
    if isinstance(value, bool):
        raise ValueError("is a boolean among other values: convert the column")
    if isinstance(value, datetime.date):  # a datetime too
        return value.isoformat()
    if isinstance(value, bytes | bytearray | memoryview):
        value = bytes(value).decode(errors="surrogateescape")
    if value is None or isinstance(value, int | uuid.UUID):
        return None if value is None else str(value)
    text = str(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("is not text in UTF-8") from None
    return text


def _is_finite(value: decimal.Decimal | float) -> bool:
    return decimal.Decimal(value).is_finite()
