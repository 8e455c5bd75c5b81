"""The public API: takes events in, answers recommendations, shows and steers the versions."""

import contextlib
import functools
import gc
import socket
from collections.abc import AsyncIterator, Sequence

import uvicorn
from fastapi import Depends, FastAPI, Request, Response
from fastapi_offline import FastAPIOffline
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp

import reckeeper
from reckeeper import errors, machine, telemetry, wire
from reckeeper import policy as policies
from reckeeper.api import (
    activity,
    audit_trail,
    demo,
    handlers,
    imports,
    interactions,
    items,
    jobs,
    keys,
    openapi,
    operation,
    parameters,
    people,
    policy,
    recommendations,
    similar_items,
    versions,
    watchlist,
)
from reckeeper.api.answers import failures
from reckeeper.api.connections import Connections, Http
from reckeeper.api.edge import Edge
from reckeeper.api.guard import Guard
from reckeeper.api.runtime import Runtime
from reckeeper.api.siblings import Siblings
from reckeeper.config import Settings
from reckeeper.origins import Origins
from reckeeper.wire.headers import INSTALLATION_HEADER

_PARTS = (
    *(versions, jobs, policy, audit_trail, keys),
    *(interactions, watchlist, items, people, recommendations, similar_items),
    *(imports, activity, demo),
)

REFUSED, NOT_STARTED = 2, 3
"""Exit statuses: the settings or the database cannot be used; it cannot listen."""

_log = telemetry.get_logger("server")


def create_app(settings: Settings, *, siblings: Siblings | None = None) -> FastAPI:
    """Make the server: its database is open, and its parts start and stop with it.

    Parameters
    ----------
    settings : Settings
    siblings : Siblings, optional
        Where it is one of several processes of a server.

    Raises
    ------
    ReckeeperError
        The settings make no policy, or the database cannot be used.
    """
    policies.first(settings)
    app = _routes(settings)
    app.state.runtime = Runtime.open(settings, siblings=siblings)
    return app


def document() -> wire.JsonObject:
    """Return the description of the API, OpenAPI, without a server or a database."""
    return _routes(Settings()).openapi()


def _routes(settings: Settings) -> FastAPI:
    app = FastAPIOffline(  # its /docs needs no other host
        title="Reckeeper",
        version=reckeeper.__version__,
        summary="Keeps the recommendation models of a product.",
        lifespan=_lifespan,
        generate_unique_id_function=openapi.operation_id,
        dependencies=[Depends(parameters.Known())],
    )
    inside = app.build_middleware_stack
    app.build_middleware_stack = lambda: _edge_of(inside(), settings)  # type: ignore[method-assign]
    handlers.register(app)
    for part in _PARTS:
        app.include_router(part.router, responses=failures(422, 500, 503))
    app.include_router(operation.router, responses=failures(422))
    app.add_route("/", _to_docs, include_in_schema=False)
    app.openapi = functools.partial(openapi.describe, app)  # type: ignore[method-assign]
    return app


def _edge_of(app: ASGIApp, settings: Settings) -> ASGIApp:
    """Put around an app what every request passes first: most lists come from no further in."""
    app = Guard(recommendations.AtHand(app))
    cors_origins = settings.cors_origins
    if cors_origins:
        app = CORSMiddleware(
            app,
            allow_origins=cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["ETag", "Retry-After", INSTALLATION_HEADER],
        )
    return Edge(app, Origins(settings, pages=cors_origins))


async def _to_docs(_request: Request) -> Response:
    return RedirectResponse("/docs")


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    runtime: Runtime = app.state.runtime
    async with runtime.running():
        yield


class _Server(uvicorn.Server):
    """Ends open streams when it stops; it would wait for them, and cut them off in the end."""

    server_state: Connections

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        self._runtime: Runtime = app.state.runtime
        connections = Connections(machine.open_files(), self._runtime.installation_id)
        super().__init__(
            uvicorn.Config(
                app,
                http=Http,
                ws="none",
                host=settings.host,
                port=settings.server_port,
                log_config=None,
                access_log=False,
                backlog=connections.backlog,
                timeout_graceful_shutdown=5,
            )
        )
        self.server_state = connections

    async def on_tick(self, counter: int) -> bool:
        """Look at the connections once a second; return whether to stop."""
        if counter % 10 == 0:
            self.server_state.look()
        return await super().on_tick(counter)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and have the garbage collector pass over what is there by then.

        That is the modules above all. A full collection stops all requests, and took 100 ms of
        going through them. The model among it is freed when it is replaced: by reference counts.
        """
        await super().startup(sockets)
        gc.collect()
        gc.freeze()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the streams, then the rest."""
        self._runtime.feed.end_streams()
        await super().shutdown(sockets)


def serve(
    settings: Settings,
    *,
    sockets: Sequence[socket.socket] | None = None,
    siblings: Siblings | None = None,
) -> int:
    """Serve in this process until a signal ends it, and return the exit status.

    Parameters
    ----------
    settings : Settings
    sockets : sequence of socket.socket, optional
        What it listens on; by default, as the settings say.
    siblings : Siblings, optional
        As of `create_app`.
    """
    telemetry.configure_logging("server")
    try:
        server = _Server(create_app(settings, siblings=siblings), settings)
    except errors.ReckeeperError as exc:
        return refused(exc)
    with contextlib.suppress(KeyboardInterrupt):  # raised again once all is put away
        server.run(None if sockets is None else list(sockets))
    return 0 if server.started else NOT_STARTED


def refused(error: errors.ReckeeperError) -> int:
    """Say why there is no server, and return the exit status."""
    telemetry.configure_logging("server")
    _log.error("server_not_started", error=wire.with_private(error))
    return REFUSED
