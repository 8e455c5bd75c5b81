"""A person's data, for them."""

import json
from collections.abc import Iterator, Mapping

from reckeeper import clock, storage


def export(database: storage.Database, user_id: str) -> Iterator[bytes]:
    """Give all that the tables have of a person, as JSON in parts, as of one moment.

    An object with ``user_id`` (the account that a visitor has become), ``exported_at``,
    ``merged_from`` (visitors who became it), ``watchlist`` and ``interactions``, in the order in
    which they came. Memory is bounded by a batch.

    Parameters
    ----------
    database : storage.Database
    user_id : str
        Known or not.
    """
    with database.read() as connection:
        account = storage.merges.account_of(connection, user_id) or user_id
        head = {
            "status": "ok",
            "user_id": account,
            "exported_at": clock.rfc3339(clock.now()),
            "merged_from": storage.merges.visitors_of(connection, account),
            "watchlist": [
                {"item_id": item_id, "added_at": clock.rfc3339(added_at)}
                for item_id, added_at in storage.interactions.watchlist_of(connection, account)
            ],
        }
        yield _json(head)[:-1] + b', "interactions": ['
        separator = b""
        for rows in storage.activity.rows(connection, users=[account]):
            told = [
                {**row._asdict(), "occurred_at": clock.rfc3339(row.occurred_at)} for row in rows
            ]
            yield separator + b", ".join(_json(row) for row in told)
            separator = b", "
        yield b"]}"


def _json(value: Mapping[str, object]) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()
