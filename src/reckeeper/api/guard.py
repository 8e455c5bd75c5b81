"""What lets a request in: its API key, before anything of it is read."""

from starlette.types import ASGIApp, Receive, Scope, Send

from reckeeper import errors
from reckeeper.api import handlers
from reckeeper.api.runtime import Runtime


class Guard:
    """Refuses what its key does not allow, and notes for the routes who asks: ``caller``."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        answer = self._app
        if scope["type"] == "http":
            runtime: Runtime = scope["app"].state.runtime
            sent = next(
                (value for name, value in scope["headers"] if name == b"authorization"), b""
            )
            try:
                scope["caller"] = runtime.access.admit(
                    scope["method"],
                    scope["path"],
                    sent.decode("latin-1") or None,
                    address=(scope.get("client") or ("unknown",))[0],
                )
            except errors.ReckeeperError as exc:
                answer = handlers.answer(exc)
        await answer(scope, receive, send)
