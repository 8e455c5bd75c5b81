"""What an import reads: a query, a file, or several files one after another."""

import collections
import contextlib
import fcntl
import hashlib
import itertools
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

from reckeeper import clock, storage
from reckeeper.config import Settings
from reckeeper.errors import DataError
from reckeeper.events import repeats
from reckeeper.events.cells import head_of
from reckeeper.events.formats import FileFormat, find_columns
from reckeeper.events.identities import Occurrences
from reckeeper.events.readings import Again, Reading, decide, from_start
from reckeeper.events.rows import Checked, RowCheck
from reckeeper.tabular import Chunk, Form, Query, Source, open_query, open_source, spread

STANDARD_INPUT = "standard input"

_NAMES_SHOWN = 3
_PREFIX = "stdin-"


class Origin(Protocol):
    """What is read: its name, its fingerprint, what each file was found to be, and its rows."""

    name: str
    fingerprint: str
    forms: dict[str, str]
    columns: dict[str, str]
    bytes_total: int

    @property
    def notes(self) -> list[str]:
        """What should be known of how it was read, by now."""
        ...

    @property
    def bytes_done(self) -> int:
        """How much has been read, of `bytes_total`."""
        ...

    def checked(self, *, arrived_at: int, by_users: bool) -> Iterator[Checked]:
        """Give the rows, sorted into interactions and refused ones; once.

        `by_users` is as of `RowCheck.check`.
        """
        ...


class Asked(NamedTuple):
    """How rows are read, the weights of types that they may have, and where they will go."""

    format: FileFormat
    types: Mapping[str, float]
    database: storage.Database
    settings: Settings


@contextlib.contextmanager
def opened(
    origin: Path | Sequence[Path] | Query, asked: Asked, *, called: str | None = None
) -> Iterator[Origin]:
    """Open what an import reads, and see that it can be read.

    Several files are all looked at before any row is given; of each, its columns are found.

    Parameters
    ----------
    origin : Path, sequence of Path, or Query
    asked : Asked
    called : str, optional
        The name of a file whose path is of no use to anybody.

    Raises
    ------
    DataError
        A file cannot be read, is empty, or lacks a column; or the query is not accepted.
    StorageError
        The query's database cannot be reached.
    ConflictError
        The file was imported before, and is read otherwise now.
    """
    if isinstance(origin, Query):
        with open_query(origin) as source:
            yield _One(source, asked, again=None)
    elif isinstance(origin, Path):
        with _renamed(origin, called):
            file = Unchanged(origin)
            with _file(origin, asked.format, name=called) as source:
                yield _One(source, asked, again=from_start(origin, source.form), file=file)
    else:
        yield _Several(origin, asked)


@contextlib.contextmanager
def spooled(stream: BinaryIO, settings: Settings) -> Iterator[Path]:
    """Store a stream in the data folder for as long as it is read: an import reads twice.

    Raises
    ------
    DataError
        It cannot be stored.
    """
    folder = settings.data_dir / "imports"
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _remove_leftovers(folder)
            file = stack.enter_context(tempfile.NamedTemporaryFile(dir=folder, prefix=_PREFIX))
            fcntl.flock(file, fcntl.LOCK_EX)
            shutil.copyfileobj(stream, file, 1024 * 1024)
            file.flush()
        except OSError as exc:
            raise DataError(
                f"What comes in cannot be stored in {folder}: {exc.strerror or exc}. Name a file."
            ) from exc
        yield Path(file.name)


def _remove_leftovers(folder: Path) -> None:
    """Delete what imports that were killed have left: nobody holds it."""
    for left in folder.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError), left.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.unlink()


@contextlib.contextmanager
def _renamed(path: Path, called: str | None) -> Iterator[None]:
    """Have errors speak of a file by its name."""
    try:
        yield
    except DataError as exc:
        if called is None or str(path) not in exc.message:
            raise
        raise type(exc)(
            exc.message.replace(str(path), called), details=exc.details, action=exc.action
        ) from exc


def _file(
    path: Path, format: FileFormat, *, name: str | None = None, form: Form | None = None
) -> contextlib.AbstractContextManager[Source]:
    return open_source(path, form or format.form, name=name, known=format.names, named=format.named)


class Unchanged:
    """A file as it is now, to see whether it is still so.

    The ids of its rows rest on what it was: if others write to it, the next import counts twice.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._was = self._state()

    def check(self) -> None:
        """See that nobody has written to it.

        Raises
        ------
        DataError
            Somebody has, or it is gone.
        """
        if self._state() != self._was:
            raise DataError(
                f"{self._path} changed while it was read, so that another import of it would count "
                "rows twice: undo this one, and import a copy to which nobody writes."
            )

    def _state(self) -> tuple[int, ...] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


class _One:
    def __init__(
        self,
        source: Source,
        asked: Asked,
        *,
        again: Again | None,
        file: Unchanged | None = None,
    ) -> None:
        self._file = file
        found = find_columns(source, asked.format, types=asked.types)
        self.name = source.name
        self.forms = {source.short_name: str(source.form)} if source.form else {}
        self.columns = found.columns
        self.bytes_total = source.bytes_total
        self._source = source
        first, self._chunks = _chunks(source, found.columns)
        self.fingerprint = source.fingerprint()
        self.known: list[repeats.Known] = []
        reading = decide(first, found.columns, asked.format, again=again)
        self._notes = [*found.notes, *reading.notes]
        self._check = self._row_check(first, asked, reading)

    def _row_check(self, first: Chunk, asked: Asked, reading: Reading) -> RowCheck:
        source, fingerprint = self._source, self.fingerprint
        self.is_timed = "occurred_at" in self.columns and "event_id" not in self.columns
        with asked.database.read() as connection:
            by_lines = repeats.are_known_by_lines(connection, fingerprint, is_timed=self.is_timed)
            occurrences = None
            if not by_lines and source.database_id is None:
                folder = asked.settings.data_dir / "imports"
                occurrences = Occurrences(source.bytes_total, folder=folder)
            check = RowCheck(
                source,
                columns=self.columns,
                format=asked.format,
                types=asked.types,
                fingerprint=fingerprint,
                reading=reading,
                by_lines=by_lines,
                occurrences=occurrences,
            )
            if "event_id" not in self.columns and source.database_id is None:
                head = head_of(first, repeats.LOOKED_AT)
                self.known = check.known(head, arrived_at=clock.now())
                warned = repeats.warning(
                    connection,
                    self.known,
                    name=source.name,
                    fingerprint=fingerprint,
                    is_timed=self.is_timed,
                )
                self._notes += [warned] if warned else []
        return check

    @property
    def notes(self) -> list[str]:
        return [*self._notes, *self._check.notes]

    @property
    def bytes_done(self) -> int:
        return self._source.bytes_done

    def checked(self, *, arrived_at: int, by_users: bool) -> Iterator[Checked]:
        with contextlib.closing(self._check):
            for chunk in self._chunks:
                if self._file is not None:
                    self._file.check()
                yield self._check.check(chunk, arrived_at=arrived_at, by_users=by_users)
        if self._file is not None:
            self._file.check()


class _File(NamedTuple):
    path: Path
    name: str
    form: Form | None
    size: int
    was: Unchanged


class _Several:
    """Files that are open one at a time."""

    def __init__(self, paths: Sequence[Path], asked: Asked) -> None:
        self._asked = asked
        self.notes: list[str] = []
        self.columns: dict[str, str] = {}
        self._files: list[_File] = []
        self._before = 0
        self._reading: _One | None = None
        self.forms: dict[str, str] = {}
        digest = hashlib.sha256()
        n_named = collections.Counter(path.name for path in paths)
        for path in paths:
            name = path.name if n_named[path.name] == 1 else str(path)
            was = Unchanged(path)
            with _file(path, asked.format, name=name) as source:
                one = _One(source, asked, again=from_start(path, source.form))
                self._files.append(_File(path, name, source.form, source.bytes_total, was))
            digest.update(one.fingerprint.encode())
            self.forms |= one.forms
            self.columns = self.columns or one.columns
        self.fingerprint = digest.hexdigest()
        self.bytes_total = sum(file.size for file in self._files)
        names = ", ".join(str(path) for path in paths[:_NAMES_SHOWN])
        more = len(paths) - _NAMES_SHOWN
        self.name = f"{names} and {more} more" if more > 0 else names
        if one.is_timed:
            with asked.database.read() as connection:
                repeats.see_that_it_is_new(
                    connection, one.known, name=self.name, fingerprint=self.fingerprint
                )

    @property
    def bytes_done(self) -> int:
        return self._before + (self._reading.bytes_done if self._reading else 0)

    def checked(self, *, arrived_at: int, by_users: bool) -> Iterator[Checked]:
        for file in self._files:
            format = self._asked.format
            with _file(file.path, format, name=file.name, form=file.form) as source:
                again = from_start(file.path, source.form)
                reading = _One(source, self._asked, again=again, file=file.was)
                self._reading = reading
                yield from reading.checked(arrived_at=arrived_at, by_users=by_users)
                self.notes += reading.notes
            self._reading, self._before = None, self._before + file.size


def _chunks(source: Source, columns: Mapping[str, str]) -> tuple[Chunk, Iterator[Chunk]]:
    """Return the first chunk of a source, and all.

    Raises
    ------
    DataError
        There is none.
    """
    chunks = itertools.chain.from_iterable(
        spread(chunk, file=source.short_name)
        for chunk in source.chunks(list(dict.fromkeys(columns.values())))
    )
    first = next(chunks, None)
    if first is None:
        raise DataError(f"{source.name} has column names but no rows: there is nothing to import.")
    return first, itertools.chain([first], chunks)
