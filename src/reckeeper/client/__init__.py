"""The HTTP client of the server, for the page, the command line and users.

::

    from reckeeper.client import Client

    with Client("http://localhost:8000") as client:
        client.send([{"user_id": "u1", "item_id": "i7", "interaction_type": "click"}])
        print(client.retrain().message)
        print(client.recommendations("u1", n=5).items)
"""

# Imports are relative: reckeeper-client installs these files under a name of its own.
from .client import ACTOR_HEADER, Client

__all__ = ["ACTOR_HEADER", "Client"]
