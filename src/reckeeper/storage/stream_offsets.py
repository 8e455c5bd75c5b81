"""`stream_offsets`: up to where the partitions of a topic are in the table.

Written in the transaction of the interactions, so that both are there or
neither is.
"""

from collections.abc import Mapping

import sqlalchemy as sa

from reckeeper.clock import now
from reckeeper.storage.engine import upsert
from reckeeper.storage.tables import stream_offsets


def get(connection: sa.Connection, topic: str, *, topic_id: str) -> dict[int, int]:
    """Return the next offset to be read of each partition that was read before.

    Parameters
    ----------
    connection : sqlalchemy.Connection
    topic : str
    topic_id : str
        Which the cluster gave the topic: nothing was read before of one that
        was deleted and made again.
    """
    columns = stream_offsets.c
    rows = connection.execute(
        sa.select(columns.partition, columns.next_offset).where(
            columns.topic == topic, columns.topic_id == topic_id
        )
    )
    return {int(row.partition): int(row.next_offset) for row in rows}


def advance(
    connection: sa.Connection, topic: str, *, topic_id: str, offsets: Mapping[int, int]
) -> None:
    """Note up to where partitions are stored.

    Parameters
    ----------
    connection : sqlalchemy.Connection
        From `Database.write`.
    topic : str
    topic_id : str
    offsets : mapping of int to int
        Partition, and the next offset to be read. One that lies before what
        is noted changes nothing: a reader that lost the partition is late.
    """
    if not offsets:
        return
    columns = stream_offsets.c
    statement = upsert(connection, stream_offsets)
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=["topic", "partition"],
            set_={
                name: statement.excluded[name] for name in ("topic_id", "next_offset", "updated_at")
            },
            where=sa.or_(
                columns.topic_id != statement.excluded.topic_id,
                columns.next_offset < statement.excluded.next_offset,
            ),
        ),
        [
            {
                "topic": topic,
                "partition": partition,
                "topic_id": topic_id,
                "next_offset": offset,
                "updated_at": now(),
            }
            for partition, offset in offsets.items()
        ],
    )
