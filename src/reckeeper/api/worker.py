"""The worker, as a server asks it for whoever has asked the server."""

import copy
from collections.abc import Mapping
from typing import Self

from reckeeper.client import ACTOR_HEADER, Client
from reckeeper.security import Caller
from reckeeper.wire.headers import CALLER_HEADER, TICKET_HEADER


class Worker(Client):
    """A client of the worker."""

    def for_caller(self, caller: Caller, *, secret: str | None) -> Self:
        """Return a client whose requests are those of a caller.

        Parameters
        ----------
        caller : Caller
        secret : str or None
            What proves that it is the server that asks; None where nobody needs a key.
        """
        headers = {
            ACTOR_HEADER: caller.said,
            CALLER_HEADER: caller.actor,
            "Authorization": secret and f"Bearer {secret}",
        }
        return self._sending({name: value for name, value in headers.items() if value is not None})

    def with_ticket(self, ticket: str) -> Self:
        """Return a client whose next job starts only while a ticket is valid."""
        return self._sending({TICKET_HEADER: ticket})

    def _sending(self, headers: Mapping[str, str]) -> Self:
        asked = copy.copy(self)
        asked._server = self._server.with_headers(headers)
        return asked
