"""The HTTP client of the server, for the page, the command line and users.

::

    from reckeeper.client import Client

    with Client("http://localhost:8000") as client:
        client.send([{"user_id": "u1", "item_id": "i7", "interaction_type": "click"}])
        print(client.retrain().message)
        print(client.recommendations("u1", n=5).items)

`AsyncClient` has the same methods, to be awaited.
"""

# Imports are relative: reckeeper-client installs these files under a name of its own.
from .async_client import AsyncClient
from .client import Client
from .parts import ACTOR_HEADER, ImportOptions, ItemRules, ListRules

__all__ = ["ACTOR_HEADER", "AsyncClient", "Client", "ImportOptions", "ItemRules", "ListRules"]
