"""What one server process holds between its start and its stop."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Self

from fastapi import Depends, Request

from reckeeper import errors, events, people, security, storage, telemetry
from reckeeper.api import bodies, uploads
from reckeeper.api.importing import Imports
from reckeeper.api.job_feed import JobFeed
from reckeeper.api.siblings import Siblings
from reckeeper.api.worker import Worker
from reckeeper.catalogue import Catalogue
from reckeeper.client import Client
from reckeeper.config import Settings
from reckeeper.periodic import Periodic
from reckeeper.policy import PolicyWatch
from reckeeper.registry import Fetch, Registry
from reckeeper.serving import FinishedLists, Newer, PopularItems, Readiness, Serving

if TYPE_CHECKING:
    from reckeeper.events.kafka import KafkaWriter

_AT_ONCE = 2
"""Comparisons that a server makes at a time, and transfers; one at least in each process."""

_log = telemetry.get_logger("server")


@dataclass(frozen=True)
class Runtime:
    """The parts that requests are answered from.

    `comparisons` and `transfers` let few at a time do what takes long and much memory or disk:
    the others wait without a thread.
    """

    settings: Settings
    database: storage.Database
    installation_id: str
    access: security.Access
    registry: Registry
    catalogue: Catalogue
    newer: Newer
    popular: PopularItems
    serving: Serving
    finished: FinishedLists
    policy: PolicyWatch
    writer: "events.DatabaseWriter | KafkaWriter"
    worker: Worker
    feed: JobFeed
    comparisons: asyncio.Semaphore
    transfers: asyncio.Semaphore
    imports: Imports
    siblings: Siblings | None

    @classmethod
    def open(cls, settings: Settings, *, siblings: Siblings | None = None) -> Self:
        """Open the database and make the parts; none of them does anything yet.

        Parameters
        ----------
        settings : Settings
        siblings : Siblings, optional
            Where this is one of several processes of a server.

        Raises
        ------
        ReckeeperError
            The database cannot be used.
        """
        database = storage.open_database(settings, n_processes=settings.server_processes)
        security.see_that_guarded(database, settings)
        if siblings is None:  # of several, who started them has looked
            database.see_that_sound()
        with database.read() as connection:
            installation_id = storage.installation.id_of(connection)
        is_one_of_several = settings.server_processes > 1
        versions = Registry(
            database,
            settings.model_dir,
            maps_files=is_one_of_several,
            fetch=_fetch(settings),
        )
        policy = PolicyWatch(database, settings)
        catalogue = Catalogue(database, every_seconds=settings.poll_seconds)
        finished = FinishedLists()
        # Whose lists they are is in them: nobody stays who was erased.
        newer = Newer(database, every_seconds=settings.poll_seconds, on_taken_away=finished.clear)
        popular = PopularItems(database, policy, catalogue, every_seconds=settings.poll_seconds)
        at_once = max(1, _AT_ONCE // settings.server_processes)
        return cls(
            settings=settings,
            database=database,
            installation_id=installation_id,
            access=security.Access(
                database, settings, requests=None if siblings is None else siblings.requests
            ),
            registry=versions,
            catalogue=catalogue,
            serving=Serving(
                database,
                versions,
                policy,
                every_seconds=settings.poll_seconds,
                catalogue=catalogue,
                newer=newer,
                popular=popular,
            ),
            newer=newer,
            popular=popular,
            finished=finished,
            policy=policy,
            writer=_writer(settings, database, newer),
            worker=Worker(settings.worker_url, retry_seconds=0, key=""),
            feed=JobFeed(database, every_seconds=settings.poll_seconds),
            comparisons=asyncio.Semaphore(at_once),
            transfers=asyncio.Semaphore(at_once),
            imports=Imports(database, settings, versions),
            siblings=siblings,
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Put in order what a crash has left, and run the parts within the block; close them."""
        self.registry.recovery.rebuild()
        self.registry.switch.repair_link()
        self._aftercare().erase_restored()
        bodies.remove_leftovers(self.settings.model_dir)
        uploads.remove_leftovers(self.settings.data_dir / "imports")
        self.access.start()
        self.policy.start()
        self.catalogue.start()
        self.popular.start()
        self.serving.start()
        self.newer.start()
        self.writer.start()
        _log.info("server_started", version=self.serving.version)
        async with self.feed.running():
            with self._telling():
                yield
        self.imports.close()
        self.serving.stop()
        self.newer.stop()
        self.popular.stop()
        self.catalogue.stop()
        self.policy.stop()
        self.access.stop()
        self.writer.close()
        self.worker.close()
        self.database.close()

    def _aftercare(self) -> people.Aftercare:
        return people.Aftercare(self.database, self.registry, self.settings, lambda: None)

    def note_items_changed(self) -> None:
        """Have a change of the catalogue count from the next request on, in all processes."""
        self.catalogue.follow_up()
        if self.siblings is not None:
            self.siblings.note_change()

    def note_keys_changed(self) -> None:
        """Have keys that were made or revoked count from the next request on, in all processes."""
        self.access.refresh()
        if self.siblings is not None:
            self.siblings.note_change()

    @property
    def is_behind(self) -> bool:
        """Whether another process has changed keys or catalogue, and this one has not looked."""
        return self.siblings is not None and self.siblings.has_news

    def catch_up(self) -> None:
        """Take in what other processes have changed; a failure is left to the next look."""
        if self.siblings is not None:
            with self.siblings.taking_in():
                with contextlib.suppress(errors.StorageError):  # `problem` says so
                    self.access.refresh()
                self.catalogue.follow_up()

    def readiness(self) -> Readiness:
        """Say whether the server can do its work, and what stands in the way.

        Of several processes, it is as well off as the worst of them.
        """
        own = self._own_readiness()
        worst = own if self.siblings is None else self.siblings.worst(own)
        return worst.worded(self.settings.without_folders)

    def _own_readiness(self) -> Readiness:
        readiness = self.serving.readiness()
        parts = (
            self.writer,
            self.newer,
            self.popular,
            self.policy,
            self.catalogue,
            self.feed,
            self.access,
        )
        problems = [part.problem for part in parts]
        return readiness.also(*(problem for problem in problems if problem is not None))

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        """Tell the siblings how this process is while the block runs."""
        siblings = self.siblings
        if siblings is None:
            yield
            return

        def tell() -> None:
            siblings.tell(self._own_readiness())

        with Periodic(tell, name="siblings", every_seconds=self.settings.poll_seconds):
            yield


def _fetch(settings: Settings) -> Fetch | None:
    """Return what downloads a version, where another server has the files."""
    url = settings.model_source_url
    return None if url is None else Client(url, key=settings.api_key or "").download


def _writer(
    settings: Settings, database: storage.Database, newer: Newer
) -> "events.DatabaseWriter | KafkaWriter":
    if not settings.uses_kafka:
        return events.DatabaseWriter(database, on_stored=newer.follow_up)
    from reckeeper.events.kafka import KafkaWriter

    return KafkaWriter(settings)


async def _runtime(request: Request) -> Runtime:
    runtime: Runtime = request.app.state.runtime
    return runtime


Needs = Annotated[Runtime, Depends(_runtime)]
