"""The embedded way in: what was answered is on disk, and every request is answered."""

import concurrent.futures
import signal

import pytest
import sqlalchemy as sa

from reckeeper import storage
from reckeeper.errors import StorageError, UnavailableError
from reckeeper.events import Accepted, DatabaseWriter
from reckeeper.interactions import Interaction


@pytest.fixture
def writer(database):
    writer = DatabaseWriter(database)
    writer.start()
    yield writer
    writer.close()


def click(event_id, user_id="u"):
    return Interaction(event_id, user_id, "i", "click", 1.0, 1)


@pytest.fixture
def event_ids(past_reckeeper):
    """Return a function that reads the ids of all interactions, in order."""

    def read():
        with past_reckeeper.connect() as connection:
            found = connection.execute(
                sa.text("SELECT event_id FROM user_interactions ORDER BY id")
            )
            return list(found.scalars())

    return read


def test_says_what_was_new(writer, event_ids):
    assert writer.append([click("a"), click("b"), click("a")]).result() == Accepted(2, 1)
    assert writer.append([click("b")]).result() == Accepted(0, 1)
    assert writer.append([]).result() == Accepted(0, 0)
    assert event_ids() == ["a", "b"]


def test_requests_from_many_threads_are_each_answered_right(writer, event_ids):
    def send(thread):
        outcomes = []
        for number in range(25):
            rows = [click(f"{thread}-{number}"), click(f"shared-{number}")]
            outcomes.append(writer.append(rows).result())
        return outcomes

    with concurrent.futures.ThreadPoolExecutor(16) as threads:
        outcomes = [outcome for each in threads.map(send, range(16)) for outcome in each]
    assert sum(outcome.accepted for outcome in outcomes) == 16 * 25 + 25
    assert sum(outcome.duplicates for outcome in outcomes) == 15 * 25
    assert len(event_ids()) == len(set(event_ids())) == 16 * 25 + 25


def test_what_is_answered_can_be_read(writer, database):
    writer.append([click("a")]).result()
    with database.read() as connection:
        assert storage.interactions.count(connection) == 1


def test_a_failure_reaches_every_request_that_waits_and_no_later_one(database, writer, event_ids):
    with database.write() as connection:  # the writer waits for this one
        waiting = [writer.append([click(f"e{number}")]) for number in range(20)]
        connection.exec_driver_sql("ALTER TABLE user_interactions RENAME TO away")
    for future in waiting:
        with pytest.raises(StorageError, match=r"no such table|did not do what was asked"):
            future.result()
    with database.write() as connection:
        connection.exec_driver_sql("ALTER TABLE away RENAME TO user_interactions")
    assert event_ids() == []
    assert writer.append([click("e0")]).result() == Accepted(1, 0)


def test_a_request_that_was_cancelled_harms_no_other(database, writer, event_ids, wait_until):
    with database.write():  # the writer waits for this one
        first = writer.append([click("first")])
        wait_until(first.running)
        futures = [writer.append([click(f"e{number}")]) for number in range(20)]
        cancelled = [future.cancel() for future in futures[::2]]
    for future in futures[1::2]:
        assert future.result() == Accepted(1, 0)
    assert first.result() == Accepted(1, 0)
    assert writer.append([click("last")]).result() == Accepted(1, 0)
    written = set(event_ids())
    for number, was_cancelled in zip(range(0, 20, 2), cancelled, strict=True):
        assert (f"e{number}" in written) is not was_cancelled


def test_closing_writes_what_waits(database, event_ids):
    writer = DatabaseWriter(database)
    writer.start()
    futures = [writer.append([click(f"e{number}")]) for number in range(200)]
    writer.close()
    assert all(future.done() for future in futures)
    assert sorted(event_ids()) == sorted(f"e{number}" for number in range(200))
    with pytest.raises(UnavailableError, match="send the request again"):
        writer.append([click("late")])


def test_closing_while_requests_come_leaves_none_unanswered(database, event_ids):
    writer = DatabaseWriter(database)
    writer.start()

    def send(thread):
        futures = []
        try:
            while True:
                futures.append(writer.append([click(f"{thread}-{len(futures)}")]))
                futures[-1].result(timeout=20)
        except UnavailableError:
            return futures

    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        senders = [threads.submit(send, thread) for thread in range(8)]
        writer.append([click("first")]).result()
        writer.close()
        accepted = [future.result() for sender in senders for future in sender.result()]
    assert len(event_ids()) == 1 + len(accepted)


WRITE = """
from reckeeper import storage
from reckeeper.config import Settings
from reckeeper.events import DatabaseWriter
from reckeeper.interactions import Interaction

writer = DatabaseWriter(storage.open_database(Settings.from_env()))
writer.start()
number = 0
while True:
    number += 1
    row = Interaction(f"e{number}", "u", "i", "click", 1.0, number)
    writer.append([row]).result()
    print(number, flush=True)
"""


def test_what_was_acknowledged_survives_a_kill(database, event_ids, start_python):
    process = start_python(WRITE)
    for _ in range(200):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    rest = process.stdout.read()  # `communicate` passes by what the lines above read ahead
    process.wait()
    acknowledged = max([200, *map(int, rest.split("\n")[:-1])])
    written = event_ids()
    assert written[:acknowledged] == [f"e{number}" for number in range(1, acknowledged + 1)]
    assert len(written) <= acknowledged + 1
