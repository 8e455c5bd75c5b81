"""Large bodies, taken in and given out in parts."""

import contextlib
import shutil
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import IO

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from reckeeper import artifact, errors
from reckeeper.api import held
from reckeeper.interactions import MAX_BODY_BYTES

_PART_BYTES = 1024 * 1024
_MOST_VALUES = 400_000
"""Objects, arrays and what is in them: over twice what the most rows of interactions have."""

_LEFT_SECONDS = 86_400.0


async def parts(request: Request, *, limit: int) -> AsyncIterator[bytes]:
    """Yield a body in parts; FastAPI's own limit would answer in another form.

    The rest of one that is too large is passed over, up to 16 times the limit and 256 MiB at
    most, so that the sender gets to the answer.

    Raises
    ------
    TooLargeError
        It is larger than `limit` bytes.
    """
    n_bytes = 0
    async for part in request.stream():
        n_bytes += len(part)
        if n_bytes <= limit:
            yield part
        elif n_bytes > limit + min(15 * limit, 256 * 1024 * 1024):
            break
    if n_bytes > limit:
        raise errors.TooLargeError(f"The body is larger than the {limit} bytes that are accepted.")


async def whole(request: Request) -> bytes:
    """Return a body of JSON that is to be parsed in a thread, and that this takes a moment.

    To make Python's values of JSON takes as long as there are values, and all requests wait.

    Raises
    ------
    TooLargeError
        It is larger than `MAX_BODY_BYTES`, or has more than `_MOST_VALUES`.
    """
    body = bytearray()
    async for part in parts(request, limit=MAX_BODY_BYTES):
        body += part
    if len(body) > _MOST_VALUES:
        # At least so many as there are, since some of these stand in texts.
        n_values = await run_in_threadpool(lambda: sum(map(body.count, (b",", b"[", b"{"))))
        if n_values > _MOST_VALUES:
            raise errors.TooLargeError(
                f"The body has about {n_values:,} values; at most {_MOST_VALUES:,} are accepted. "
                "Split it into several requests."
            )
    return bytes(body)


async def save(request: Request, path: Path, *, limit: int) -> None:
    """Write a body of up to `limit` bytes to a new file; a part of it at a time is in memory."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise errors.TooLargeError(f"The body has {declared} bytes; up to {limit} are accepted.")
    with path.open("xb") as file:
        held = bytearray()
        async for part in parts(request, limit=limit):
            held += part
            if len(held) >= _PART_BYTES:
                await run_in_threadpool(file.write, held)
                held = bytearray()
        await run_in_threadpool(file.write, held)


@contextlib.contextmanager
def scratch(models: Path) -> Iterator[Path]:
    """Give a folder beside the models, where there is room for one more; it goes with the block.

    Raises
    ------
    StorageError
        Nothing can be written there.
    UnavailableError
        There are too many already.
    """
    try:
        with held.folder(models, artifact.SCRATCH) as folder:
            yield folder
    except OSError as exc:
        raise errors.StorageError(
            f"{models} cannot hold the file: {exc.strerror or exc}. Check that this "
            "process may write there and that there is room; then try again."
        ) from exc


def remove_leftovers(models: Path) -> None:
    """Delete what servers that were killed have left of `scratch`, and others a day ago or more."""
    held.remove_leftovers(models, artifact.SCRATCH)
    for folder in models.glob(f"{artifact.SCRATCH}*"):
        with contextlib.suppress(OSError):  # another process may be quicker
            if time.time() - folder.stat().st_mtime > _LEFT_SECONDS:
                shutil.rmtree(folder)


class Streamed(StreamingResponse):
    """An answer from a generator, which is closed however the answer ends."""

    def __init__(
        self,
        content: AsyncGenerator[bytes, None],
        *,
        media_type: str,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(content, media_type=media_type, headers=headers)
        self._content = content

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer, and close the generator."""
        async with contextlib.aclosing(self._content):
            await super().__call__(scope, receive, send)


async def content_of(file: IO[bytes]) -> AsyncGenerator[bytes, None]:
    """Yield what an open file holds, and close it."""
    with file:
        while part := await run_in_threadpool(file.read, _PART_BYTES):
            yield part
