"""Imports of files that were sent: threads of the process that took them."""

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from reckeeper import errors, storage, telemetry, wire
from reckeeper.api.uploads import CATALOGUE, FILE, Upload, by_name
from reckeeper.config import Settings
from reckeeper.events import demo
from reckeeper.registry import Registry
from reckeeper.wire.imports import as_fields

if TYPE_CHECKING:  # they bring Arrow's readers, which a server needs when it imports
    from reckeeper.events import files

_AT_ONCE = 2
_STOP_SECONDS = 10.0
_END_SECONDS = 60.0

_log = telemetry.get_logger("server")


_OTHERWISE: Mapping[str, tuple[str, Callable[[Any], object]]] = {
    "null": ("null_words", tuple),
    "no_header": ("has_header", lambda no_header: not no_header),
}
"""Options that the format has under another name, or in another form."""

_OF_CATALOGUE = {
    "catalogue_item_column": "item_column",
    "title_column": "title_column",
    "category_column": "category_column",
    "category_separator": "category_separator",
}


@dataclass(frozen=True)
class Asked:
    """What is to be done with a file."""

    format: "files.FileFormat"
    catalogue_format: "files.CatalogueFormat"
    weights: Mapping[str, float]
    actor: str


def asked(options: wire.ImportOptions, *, actor: str) -> Asked:
    """Return what the options of a request ask for.

    Raises
    ------
    DataError
        One of them cannot be used.
    """
    from reckeeper.events import files
    from reckeeper.events.weights import parse_weights

    chosen = files.MOVIELENS if options.preset else None
    given = options.model_dump(exclude_none=True, exclude={"filename", "preset", "weights"})
    if quote := given.pop("quote", None):
        given["has_quotes"] = quote != "none"
        if quote != "none":
            given["has_escapes"] = quote == "backslash"
    given |= {
        name: read(given.pop(option))
        for option, (name, read) in _OTHERWISE.items()
        if option in given
    }
    catalogue = {
        name: given.pop(option) for option, name in _OF_CATALOGUE.items() if option in given
    }
    shared = ("delimiter", "has_quotes", "has_escapes")
    catalogue |= {name: given[name] for name in shared if name in given}
    if "item_column" in given:
        catalogue = {"item_column": given["item_column"], **catalogue}
    return Asked(
        format=dataclasses.replace(chosen.interactions if chosen else files.FileFormat(), **given),
        catalogue_format=dataclasses.replace(
            chosen.catalogue if chosen else files.CatalogueFormat(), **catalogue
        ),
        weights=parse_weights(options.weights) if options.weights else {},
        actor=actor,
    )


@contextlib.contextmanager
def in_senders_words(upload: Upload) -> Iterator[None]:
    """Let an error of the ``with`` block name a file, and the options, as its sender does."""
    try:
        yield
    except errors.ReckeeperError as exc:
        exc.message = as_fields(by_name(upload.folder.parent, exc.message))
        raise


def previewed(upload: Upload, asked: Asked, *, types: Mapping[str, float]) -> wire.ImportPreview:
    """Return what a file is found to be, with the first rows."""
    from reckeeper.events.previews import preview
    from reckeeper.events.types import count_types

    path = upload.files[FILE]
    with in_senders_words(upload):
        found = preview(path, asked.format, types={**types, **asked.weights})
    column = {part.part: part.column for part in found.parts}.get("interaction_type")
    return wire.ImportPreview.model_validate(
        {
            **vars(found),
            "form": {**vars(found.form), "words": str(found.form), "unit": found.form.unit},
            "types": {} if column is None else count_types(path, found.form, column),
        }
    )


@dataclass
class _Running:
    """What the thread of an import and those who undo it say to each other."""

    is_unwanted: bool = False
    ended: threading.Event = field(default_factory=threading.Event)


class Imports:
    """The imports and undos of this process, each in a thread of its own.

    Parameters
    ----------
    database : storage.Database
    settings : Settings
    registry : Registry
    """

    def __init__(
        self,
        database: storage.Database,
        settings: Settings,
        registry: Registry,
    ) -> None:
        self._database = database
        self._settings = settings
        self._registry = registry
        self._stopping = threading.Event()
        self._slots = threading.Semaphore(_AT_ONCE)
        self._threads: set[threading.Thread] = set()
        self._running: dict[int, _Running] = {}

    def start(self, upload: Upload, asked: Asked) -> "Future[int]":
        """Import what was sent, and delete it in the end; return the import's number to come.

        Raises
        ------
        ConflictError
            As many run as may at a time.
        """
        if not self._slots.acquire(blocking=False):
            upload.remove()
            raise errors.ConflictError(
                f"{_AT_ONCE} imports run in this process already: wait until one is done, then "
                "send the file again.",
                action=errors.Action("list_imports"),
            )
        begun: Future[int] = Future()
        self._run("import", lambda: self._import(upload, asked, begun))
        return begun

    def undo(self, import_id: int, *, actor: str) -> "Future[files.Undone]":
        """Take out what an import brought; return what that was, to come."""
        undone: Future[files.Undone] = Future()
        self._run("undo", lambda: self._undo(import_id, actor, undone))
        return undone

    def close(self) -> None:
        """End the imports that run; they are told as failed, and what they stored stays."""
        self._stopping.set()
        for thread in [*self._threads]:
            thread.join(_STOP_SECONDS)

    def _run(self, name: str, work: Callable[[], None]) -> None:
        def run() -> None:
            try:
                work()
            finally:
                self._threads.discard(threading.current_thread())

        thread = threading.Thread(target=run, name=name, daemon=True)
        self._threads.add(thread)
        thread.start()

    def _import(self, upload: Upload, asked: Asked, begun: "Future[int]") -> None:
        from reckeeper.events import files

        run = _Running()

        def note_begun(import_id: int) -> None:
            self._running[import_id] = run
            begun.set_result(import_id)

        try:
            with upload, in_senders_words(upload):
                files.import_file(
                    self._database,
                    upload.files[FILE],
                    format=asked.format,
                    settings=self._settings,
                    actor=asked.actor,
                    weights=asked.weights,
                    called=upload.files[FILE].name,
                    catalogue=upload.files.get(CATALOGUE),
                    catalogue_format=asked.catalogue_format,
                    before_first_row=lambda: self._clear_demo(asked.actor),
                    on_begun=note_begun,
                    on_progress=lambda _: self._check_stop(run),
                )
        except Exception as exc:  # noqa: BLE001
            self._tell(exc, begun)
        finally:
            self._slots.release()
            if begun.exception() is None:
                self._running.pop(begun.result(), None)
            run.ended.set()

    def _undo(self, import_id: int, actor: str, undone: "Future[files.Undone]") -> None:
        from reckeeper.events import files

        try:
            if (run := self._running.get(import_id)) is not None:
                run.is_unwanted = True  # its batches leave hardly a gap for others who write
                run.ended.wait(_END_SECONDS)
            with self._database.read() as connection:
                row = storage.imports.get(connection, import_id)
            done = files.undo(self._database, import_id, actor=actor)
            if row is not None and row.is_demo:
                self._registry.switch.delete_demo(actor=actor)
            undone.set_result(done)
        except Exception as exc:  # noqa: BLE001
            self._tell(exc, undone)

    def _clear_demo(self, actor: str) -> None:
        demo.clear(self._database, actor=actor)
        self._registry.switch.delete_demo(actor=actor)

    def _check_stop(self, run: "_Running") -> None:
        if run.is_unwanted:
            raise errors.ConflictError("Somebody undid it while it ran.")
        if self._stopping.is_set():
            raise errors.UnavailableError(
                "The server stopped while it ran. Importing again adds what is missing."
            )

    def _tell(self, exc: Exception, waited_for: "Future[int] | Future[files.Undone]") -> None:
        """Hand a failure to whoever waits; where nobody does any more, the import's row has it."""
        if not waited_for.done():
            waited_for.set_exception(exc)
        elif not isinstance(exc, errors.ReckeeperError):
            _log.error("import_failed", exc_info=exc)
        else:
            _log.warning("import_failed", error=exc.in_full)
