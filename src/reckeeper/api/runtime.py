"""What one server process holds between its start and its stop."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, FastAPI, Request

from reckeeper import events, registry, serving, storage, telemetry
from reckeeper.api import bodies
from reckeeper.api.streams import JobFeed
from reckeeper.client import Client
from reckeeper.config import Settings
from reckeeper.events.kafka import KafkaWriter
from reckeeper.policy import PolicyWatch

_log = telemetry.get_logger("server")


@dataclasses.dataclass(frozen=True)
class Runtime:
    """The parts that requests are answered from.

    `comparisons` and `transfers` let two at a time do what takes long and much memory or disk:
    of more, the others wait without a thread.
    """

    settings: Settings
    database: storage.Database
    registry: registry.Registry
    serving: serving.Serving
    policy: PolicyWatch
    writer: events.DatabaseWriter | KafkaWriter
    worker: Client
    feed: JobFeed
    comparisons: asyncio.Semaphore
    transfers: asyncio.Semaphore


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open what requests are answered from, and close it when the server stops."""
    settings = Settings.from_env()
    database = storage.open_database(settings)
    versions = registry.Registry(database, settings.model_dir)
    versions.rebuild()
    versions.repair_link()
    bodies.remove_leftovers(settings.model_dir)
    policy = PolicyWatch(database, settings)
    runtime = Runtime(
        settings=settings,
        database=database,
        registry=versions,
        serving=serving.Serving(database, versions, policy),
        policy=policy,
        writer=KafkaWriter(settings) if settings.uses_kafka else events.DatabaseWriter(database),
        worker=Client(settings.worker_url, retry_seconds=0),
        feed=JobFeed(database),
        comparisons=asyncio.Semaphore(2),
        transfers=asyncio.Semaphore(2),
    )
    runtime.policy.start()
    runtime.serving.start()
    runtime.writer.start()
    app.state.runtime = runtime
    _log.info("server_started", version=runtime.serving.version)
    async with runtime.feed.running():
        yield
    runtime.serving.stop()
    runtime.policy.stop()
    runtime.writer.close()
    runtime.worker.close()
    database.close()


async def _runtime(request: Request) -> Runtime:
    runtime: Runtime = request.app.state.runtime
    return runtime


Needs = Annotated[Runtime, Depends(_runtime)]
