"""The HTTP client of Reckeeper, for programs that only talk to a server.

::

    from reckeeper_client import Client

    with Client("http://localhost:8000") as client:
        client.send([{"user_id": "u1", "item_id": "i7", "interaction_type": "click"}])

`AsyncClient` has the same methods, to be awaited.
"""

from . import errors, wire
from .client import ACTOR_HEADER, AsyncClient, Client

__all__ = ["ACTOR_HEADER", "AsyncClient", "Client", "errors", "wire"]
