# After a change, `python -m client.generate` makes imports.py of this.
"""The calls about imports, and about what came in of late."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar, Unpack

from .. import wire
from .parts import ImportOptions, error_of, given, opened, options_in_query

if TYPE_CHECKING:  # it brings httpx
    from .async_connection import AsyncConnection

_Answer = TypeVar("_Answer", bound=wire.Answer)


class AsyncImportCalls:
    """What a client sends to be imported, and asks of it."""

    _server: "AsyncConnection"

    async def import_file(
        self,
        file: Path | BinaryIO,
        *,
        filename: str | None = None,
        catalogue: Path | BinaryIO | None = None,
        **options: Unpack[ImportOptions],
    ) -> wire.Import:
        """Send a file of interactions, of any size that the server takes, and begin its import.

        It goes on when this returns: `import_status` tells how far it is. The
        same file again adds what is missing.

        Parameters
        ----------
        file : Path or binary file
        filename : str, optional
            What the list of imports calls it. Default: its name.
        catalogue : Path or binary file, optional
            A file of items.
        **options
            What its columns mean: see `ImportOptions`.

        Raises
        ------
        DataError
            It cannot be read, or the server refuses it.
        """
        answer = await self._send(wire.ImportAnswer, "/imports", file, filename, catalogue, options)
        return answer.import_

    async def preview_import(
        self,
        file: Path | BinaryIO,
        *,
        filename: str | None = None,
        **options: Unpack[ImportOptions],
    ) -> wire.ImportPreview:
        """Say what a file is found to be, with its first rows; nothing is stored.

        Parameters
        ----------
        file, filename, **options
            As of `import_file`.
        """
        path = "/imports/preview"
        return await self._send(wire.ImportPreview, path, file, filename, None, options)

    async def _send(
        self,
        answer: type[_Answer],
        path: str,
        file: Path | BinaryIO,
        filename: str | None,
        catalogue: Path | BinaryIO | None,
        options: ImportOptions,
    ) -> _Answer:
        with contextlib.ExitStack() as stack:
            sent = {"file": opened(stack, file, filename)}
            if catalogue is not None:
                sent["catalogue"] = opened(stack, catalogue, None)
            return await self._server.call(
                answer, "POST", path, params=options_in_query(options), files=sent, waits=True
            )

    async def imports(self, *, limit: int = 20, before: int | None = None) -> list[wire.Import]:
        """List imports, the latest first, with numbers below `before`."""
        params = given(limit=limit, before=before)
        return (await self._server.get(wire.ImportPage, "/imports", params=params)).imports

    async def import_status(self, import_id: int) -> wire.Import:
        """Say how far an import is, and what became of its rows."""
        return (await self._server.get(wire.ImportAnswer, f"/imports/{import_id}")).import_

    async def refused_rows(self, import_id: int) -> bytes:
        """Return all rows that an import refused, with the reasons, as CSV."""
        path = f"/imports/{import_id}/refused"
        response = await self._server.request("GET", path)
        if not response.is_success:
            raise error_of(response)
        return response.content

    async def undo_import(self, import_id: int) -> wire.ImportUndone:
        """Take out what an import brought; one that runs is ended."""
        return await self._server.call(wire.ImportUndone, "DELETE", f"/imports/{import_id}")

    async def latest_interactions(
        self, *, n: int = 20, interaction_type: str | None = None
    ) -> list[wire.LatestInteraction]:
        """List the interactions that came last, of everybody."""
        params: dict[str, str | int] = given(n=n, interaction_type=interaction_type)
        answer = await self._server.get(
            wire.LatestInteractions, "/interactions/latest", params=params
        )
        return answer.interactions

    async def interaction_summary(
        self, *, among: int = 100_000, n: int = 10
    ) -> wire.InteractionSummary:
        """Tell of the latest interactions: types over time, heaviest users and items."""
        params = {"among": among, "n": n}
        return await self._server.get(
            wire.InteractionSummary, "/interactions/summary", params=params
        )

    async def dead_letters(self, *, n: int = 20) -> wire.DeadLetterList:
        """List the records from Kafka that were refused last."""
        return await self._server.get(
            wire.DeadLetterList, "/interactions/dead_letters", params={"n": n}
        )
