"""What every request to the page passes, its WebSocket too: where it comes from."""

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reckeeper import wire
from reckeeper.config import Settings
from reckeeper.origins import RAW_HEADERS, Origins

_POLICY_VIOLATED = 1008


class Guard:
    """Refuses what comes from a foreign page, or is for a host that is not ours.

    Parameters
    ----------
    app : ASGI application
    origins : Origins
    """

    def __init__(self, app: ASGIApp, origins: Origins) -> None:
        self._app = app
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or open a WebSocket, by which the page does all that it does."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *RAW_HEADERS]
            await send(message)

        refusal = self._origins.refusal(scope.get("method", scope["type"]), scope["headers"])
        if refusal is None:
            await self._app(scope, receive, send_with_headers)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": _POLICY_VIOLATED})
        else:
            body = wire.error_body(refusal).model_dump_json().encode()
            await send_with_headers(
                {
                    "type": "http.response.start",
                    "status": wire.status_of(refusal),
                    "headers": [(b"content-type", b"application/json")],
                }
            )
            await send({"type": "http.response.body", "body": body})


def middleware() -> list[Middleware]:
    """Return what Streamlit is to put around the page.

    Raises
    ------
    ConfigError
        A setting cannot be used.
    """
    return [Middleware(Guard, origins=Origins(Settings.from_env()))]
