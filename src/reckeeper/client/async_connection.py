# After a change, `python -m client.generate` makes connection.py of this.
"""How a request is made, tried again, and its answer read."""

import asyncio
import contextlib
import copy
import os
import random
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from typing import BinaryIO, Self, TypeVar

import httpx

from .. import errors, wire
from .parts import Files, Params, error_of, foreign, masked, read, unavailable

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.1, 2.0
_CHUNK_BYTES = 1024 * 1024

_Answer = TypeVar("_Answer", bound=wire.Answer)
_Result = TypeVar("_Result")


class AsyncConnection:
    """Connections to a server, and the headers that go with each request.

    Parameters
    ----------
    url : str
    timeout_seconds : float
        For one try.
    retry_seconds : float
        How long to go on trying; 0 tries once.
    retry_first : bool
        Whether to go on trying also before the server has answered once.
    transport : httpx.AsyncBaseTransport, optional
        What carries the requests, in place of connections to `url`.

    Attributes
    ----------
    url : str
        Without its password.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_seconds: float,
        retry_seconds: float,
        retry_first: bool,
        transport: httpx.AsyncBaseTransport | None,
    ) -> None:
        address = httpx.URL(url.rstrip("/"))
        # A proxy of the environment leads out of this machine, never back to it.
        is_here = address.host in {"127.0.0.1", "::1", "localhost"}
        # To read the certificates that sign others takes longer than most requests. What is asked
        # here and without TLS needs none, and trusts none.
        is_plain = is_here and address.scheme == "http"
        self.url = masked(address)
        self._http = httpx.AsyncClient(
            base_url=address,
            trust_env=not is_here,
            verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if is_plain else True,
            transport=transport,
        )
        self._headers: Mapping[str, str] = {}
        self._timeout = httpx.Timeout(timeout_seconds)
        # A stream is never silent for longer than 15 seconds.
        self._stream_timeout = httpx.Timeout(timeout_seconds, read=max(timeout_seconds, 30.0))
        self._retry_seconds = retry_seconds
        self._retries = retry_first

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    def with_headers(self, headers: Mapping[str, str]) -> Self:
        """Return the same connections with headers added or changed; an empty one is left out."""
        other = copy.copy(self)
        merged = {**self._headers, **headers}
        other._headers = {name: value for name, value in merged.items() if value}
        return other

    async def get(
        self,
        answer: type[_Answer],
        path: str,
        *,
        params: Params | None = None,
    ) -> _Answer:
        """Ask for what changes nothing, and so may be asked for again."""
        return await self.call(answer, "GET", path, params=params, repeat=True)

    async def call(
        self,
        answer: type[_Answer],
        method: str,
        path: str,
        *,
        params: Params | None = None,
        json: object = None,
        bundle: BinaryIO | None = None,
        files: Files | None = None,
        repeat: bool = False,
        waits: bool = False,
    ) -> _Answer:
        """Make a request, and return its answer.

        Parameters
        ----------
        answer : type
            Model of the answer.
        method, path : str
        params : mapping, optional
            The query.
        json : JSON value, optional
            The body.
        bundle : file, optional
            The body, a zip file.
        files : mapping, optional
            The parts of a form, each a name and a file.
        repeat : bool
            Whether it is safe to try it again.
        waits : bool
            Whether to wait without a limit.

        Raises
        ------
        ReckeeperError
            The server refused, or did not answer.
        """

        async def once() -> _Answer:
            response = await self.request(
                method, path, params=params, json=json, bundle=bundle, files=files, waits=waits
            )
            if not response.is_success:
                raise error_of(response)
            return read(answer, response.content, response)

        return await (self.retrying(once) if repeat else once())

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Params | None = None,
        json: object = None,
        bundle: BinaryIO | None = None,
        files: Files | None = None,
        waits: bool = False,
    ) -> httpx.Response:
        """Make a request once, and return what came back, an error too."""
        headers = dict(self._headers)
        if bundle is not None:
            n_bytes = os.fstat(bundle.fileno()).st_size
            headers |= {"Content-Type": "application/zip", "Content-Length": str(n_bytes)}
        try:
            response = await self._http.request(
                method,
                path,
                params=params,
                json=json,
                files=files,
                content=None if bundle is None else _chunks_of(bundle),
                headers=headers,
                timeout=None if waits else self._timeout,
            )
        except httpx.HTTPError as exc:
            raise unavailable(self.url, exc) from exc
        except (ValueError, RecursionError) as exc:  # NaN, half a character
            raise errors.DataError(
                f"The request cannot be sent: {exc}. Give finite numbers and valid Unicode text."
            ) from exc
        self._retries = True
        return response

    async def chunks(self, path: str) -> AsyncGenerator[bytes, None]:
        """Yield the content of a zip file, a part at a time."""
        async with await self._open(path) as response:
            if response.headers.get("content-type") != "application/zip":
                raise foreign(response)
            try:
                async for chunk in response.aiter_bytes(_CHUNK_BYTES):
                    yield chunk
            except httpx.HTTPError as exc:
                raise unavailable(self.url, exc) from exc

    async def follow(self, path: str, *, state: type[_Answer]) -> AsyncGenerator[_Answer, None]:
        """Yield the states that a stream of server-sent events has, up to the event ``end``.

        A stream that breaks is opened again, unless it said nothing.
        """
        while True:
            is_told = False
            reason: httpx.HTTPError | str = "the stream ended before it said anything"
            async with await self.retrying(lambda: self._open(path)) as response:
                try:
                    async for event, data in _events(response):
                        if event == "end":
                            return
                        is_told = True
                        yield read(state, data, response)
                except httpx.HTTPError as exc:
                    reason = exc
            if not is_told:
                raise unavailable(self.url, reason)

    async def retrying(self, once: Callable[[], Awaitable[_Result]]) -> _Result:
        """Return what a call gives, and call again, with growing pauses, while nobody answers."""
        give_up_at = time.monotonic() + self._retry_seconds
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                return await once()
            except errors.UnavailableError:
                if not self._retries or time.monotonic() >= give_up_at:
                    raise
            # At random, so that many clients do not come back all at one moment.
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2.0 * pause, _LONGEST_PAUSE_SECONDS)

    async def _open(self, path: str) -> contextlib.aclosing[httpx.Response]:
        """Begin an answer that is read in parts, for a ``with`` statement."""
        request = self._http.build_request(
            "GET", path, headers=self._headers, timeout=self._stream_timeout
        )
        try:
            response = await self._http.send(request, stream=True)
            self._retries = True
            if not response.is_success:
                await response.aread()
                raise error_of(response)
        except httpx.HTTPError as exc:
            raise unavailable(self.url, exc) from exc
        return contextlib.aclosing(response)


async def _chunks_of(file: BinaryIO) -> AsyncIterator[bytes]:
    while chunk := await asyncio.to_thread(file.read, _CHUNK_BYTES):
        yield chunk


async def _events(response: httpx.Response) -> AsyncIterator[tuple[str, str]]:
    """Yield the name and the data of each server-sent event; comments are passed over."""
    event, data = "message", ""
    async for line in response.aiter_lines():
        name, _, value = line.partition(": ")
        if name == "event":
            event = value
        elif name == "data":
            data = value
        elif not line and data:
            yield event, data
            event, data = "message", ""
