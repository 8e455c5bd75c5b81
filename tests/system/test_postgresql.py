"""PostgreSQL under the whole: others' tables, real concurrency, and a database that goes away."""

import contextlib
import itertools
import json
import random
import re
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from tests.conftest import settings_in
from tests.services import PostgreSQL
from tests.system.installation import BIN, Installation, clicks, is_alive, wait_until
from tests.unit.small_models import add_version

from reckeeper import audit, storage
from reckeeper.errors import (
    Action,
    ConfigError,
    ConflictError,
    JobRunningError,
    SchemaError,
    StorageError,
)
from reckeeper.interactions import Interaction
from reckeeper.registry import Registry

numbers = itertools.count(1)


@pytest.fixture
def url(postgresql):
    """Give the URL of an empty database without a schema."""
    name = f"system_{next(numbers)}"
    yield postgresql.create(name)
    postgresql.drop(name)


@pytest.fixture
def settings(tmp_path, url):
    return settings_in(tmp_path).replaced(database_url=url)


@pytest.fixture
def database(settings):
    storage.migrate(settings)
    database = storage.open_database(settings)
    yield database
    database.close()


def event(event_id, user_id="u", item_id="i"):
    return Interaction(event_id, user_id, item_id, "click", 1.0, 1)


def plain(url):
    return psycopg.connect(url.replace("+psycopg", ""), autocommit=True)


# What is there already


def test_a_table_of_somebody_else_is_left_as_it_is(settings):
    with plain(settings.database_url) as connection:
        connection.execute("CREATE TABLE user_interactions (who text, what text)")
        connection.execute("INSERT INTO user_interactions VALUES ('anna', 'film')")
        with pytest.raises(SchemaError) as caught:
            storage.migrate(settings)
        assert "'user_interactions' already that Reckeeper did not make" in caught.value.message
        assert "RECKEEPER_DATABASE_SCHEMA" in caught.value.message
        assert caught.value.action == Action("import_query")
        with pytest.raises(SchemaError, match="no schema yet"):
            storage.open_database(settings)
        tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
        assert connection.execute(tables).fetchone() == (1,)

        other = settings.replaced(database_schema="reckeeper")
        assert storage.migrate(other) is None
        with contextlib.closing(storage.open_database(other)) as database:
            with database.write() as writer:
                assert storage.interactions.append(writer, [event("e")]) == 1
            with database.read() as reader:
                (batch,) = storage.interactions.read_batches(reader)
        assert batch.num_rows == 1
        rows = connection.execute("SELECT * FROM public.user_interactions").fetchall()
        assert rows == [("anna", "film")]


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE VIEW user_interactions AS SELECT 1 AS one",
        "CREATE MATERIALIZED VIEW user_interactions AS SELECT 1 AS one",
        "CREATE TYPE user_interactions AS (one int)",
    ],
)
def test_what_else_has_a_name_of_ours_is_left_as_it_is(settings, statement):
    with plain(settings.database_url) as connection:
        connection.execute(statement)
    with pytest.raises(SchemaError, match="RECKEEPER_DATABASE_SCHEMA"):
        storage.migrate(settings)


def test_a_user_who_may_not_make_tables_is_told_what_is_needed(settings, postgresql):
    with plain(settings.database_url) as connection:
        connection.execute("DROP ROLE IF EXISTS guest")
        connection.execute("CREATE ROLE guest LOGIN PASSWORD 'guest'")
        connection.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        name = connection.info.dbname
    url = f"postgresql+psycopg://guest:guest@127.0.0.1:{postgresql.port}/{name}"
    with pytest.raises(StorageError, match="GRANT CREATE, USAGE ON SCHEMA public"):
        storage.migrate(settings.replaced(database_url=url))


@pytest.mark.parametrize("schema", ["user", "order", "default"])
def test_a_schema_may_have_a_word_of_sql_as_its_name(settings, schema):
    settings = settings.replaced(database_schema=schema)
    storage.migrate(settings)
    with contextlib.closing(storage.open_database(settings)) as database:
        with database.write() as connection:
            storage.interactions.append(connection, [event("e")])
        with database.read() as connection:
            assert sum(b.num_rows for b in storage.interactions.read_batches(connection)) == 1


def test_two_installations_share_a_database_by_schema(settings):
    both = [settings.replaced(database_schema=name) for name in ("one", "two")]
    for number, each in enumerate(both):
        storage.migrate(each)
        with contextlib.closing(storage.open_database(each)) as database:
            with database.write() as writer:
                storage.interactions.append(writer, [event(f"e{n}") for n in range(number)])
            with database.read() as reader:
                assert storage.interactions.count(reader) == number
    with (
        contextlib.closing(storage.open_database(both[0])) as one,
        contextlib.closing(storage.open_database(both[1])) as two,
        one.write(),
        two.write(),  # waits for nobody
    ):
        pass


def test_what_cannot_be_reached_is_told_at_once_and_without_the_password(settings, postgresql):
    wrong = settings.database_url.replace("s3cret", "guessed")
    missing = settings.database_url + "_missing"
    for url, said in ((wrong, "password authentication failed"), (missing, "does not exist")):
        began = time.monotonic()
        with pytest.raises(StorageError, match=r"cannot be reached|did not do") as caught:
            storage.open_database(settings.replaced(database_url=url))
        assert time.monotonic() - began < 10
        told, private = caught.value.message, caught.value.private
        assert not re.search("reckeeper|127|postgresql|guessed|s3cret", told)
        assert not re.search("guessed|s3cret", private)
        assert said in private
        assert f"reckeeper:***@127.0.0.1:{postgresql.port}" in private


@pytest.mark.parametrize("url", ["mysql://anna@db/shop", "postgresql+asyncpg://anna@db/shop"])
def test_other_databases_are_refused(settings, url):
    with pytest.raises(ConfigError, match="postgresql\\+psycopg://"):
        storage.open_database(settings.replaced(database_url=url))


# Concurrency


def test_what_is_numbered_earlier_is_committed_earlier(database):
    """Or a model would take the later one for all that there is, and never see the earlier."""
    entered, may_commit = threading.Event(), threading.Event()

    def slow():
        with database.write() as connection:
            storage.interactions.append(connection, [event("early")])
            entered.set()
            assert may_commit.wait(30)

    def quick():
        with database.write() as connection:
            storage.interactions.append(connection, [event("late")])
            return storage.interactions.last_id(connection)

    with ThreadPoolExecutor() as pool:
        first = pool.submit(slow)
        assert entered.wait(30)
        second = pool.submit(quick)
        with database.read() as connection:
            seen = storage.interactions.last_id(connection)
            assert storage.interactions.count(connection) == 0
        assert not second.done()
        may_commit.set()
        first.result(30)
        assert second.result(30) > seen
    with database.read() as connection:
        assert storage.interactions.count_after(connection, seen, at_most=10) == 2


def test_a_read_sees_one_moment_on_all_its_connections(database):
    with database.write() as connection:
        storage.interactions.append(connection, [event(f"e{n}") for n in range(5)])
    with database.read() as connection:
        assert storage.interactions.count(connection) == 5
        with database.write() as other:
            storage.interactions.append(other, [event("later")])
        assert storage.interactions.count(connection) == 5
        batches = list(storage.interactions.read_batches(connection, batch_rows=2))
    assert sum(batch.num_rows for batch in batches) == 5


def test_a_reader_may_take_its_time(settings, monkeypatch):
    storage.migrate(settings)
    monkeypatch.setattr(storage.engine, "BUSY_TIMEOUT_SECONDS", 1)
    with contextlib.closing(storage.open_database(settings)) as database:
        with database.write() as connection:
            storage.interactions.append(connection, [event(f"e{n}") for n in range(5)])
        with database.read() as connection:
            for batch in storage.interactions.read_batches(connection, batch_rows=2):
                assert batch.num_rows
                time.sleep(1.5)
            assert storage.interactions.count(connection) == 5


def test_other_defaults_of_the_role_change_nothing(settings):
    storage.migrate(settings)
    with plain(settings.database_url) as connection:
        connection.execute(
            f"ALTER DATABASE {connection.info.dbname} SET default_transaction_isolation = "
            "'serializable'"
        )
    with contextlib.closing(storage.open_database(settings)) as database:

        def write(number):
            with database.write() as connection:
                storage.interactions.append(connection, [event(f"e{number}")])
                audit.record(connection, actor="test", action="test", subject=str(number))

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(write, range(40)))
        assert audit.verify(database, settings).n_entries == 40


@pytest.mark.parametrize("n_rows", [150, 5_000], ids=["in one statement", "by COPY"])
def test_rows_keep_their_order_and_of_repeated_ones_the_first_stands(database, n_rows):
    rows = [event(f"e{n % (n_rows - 20)}", f"ü {n}/🎬'\"\\", f"i,{n}") for n in range(n_rows)]
    with database.write() as connection:
        assert storage.interactions.append(connection, rows) == n_rows - 20
        assert storage.interactions.append(connection, rows) == 0
        rows.append(event("new"))
        assert storage.interactions.append(connection, rows) == 1
    with database.read() as connection:
        (stored,) = storage.interactions.read_batches(connection)
    assert stored.column("user_id").to_pylist() == [
        row.user_id for row in [*rows[: n_rows - 20], rows[-1]]
    ]


def test_many_who_write_at_once_are_kept_apart(database, settings):
    def work(worker):
        taken = []
        for number in range(15):
            with database.write() as connection:
                # The same ids in another order: without one writer at a time they lock up.
                rows = [event(f"{number}-{n}") for n in range(20)]
                storage.interactions.append(connection, rows[:: 1 if worker % 2 else -1])
                taken.append(storage.models.reserve(connection, above=0, job_id=None))
                audit.record(connection, actor=f"w{worker}", action="test", subject=str(number))
        return taken

    with ThreadPoolExecutor(8) as pool:
        taken = [version for part in pool.map(work, range(8)) for version in part]
    assert sorted(taken) == list(range(1, 8 * 15 + 1))
    with database.read() as connection:
        assert storage.interactions.count(connection) == 15 * 20
    found = audit.verify(database, settings)
    assert (found.ok, found.n_entries) == (True, 8 * 15), found.problem


def test_of_many_who_start_a_job_at_once_one_does(database):
    def start(_):
        try:
            with database.write() as connection:
                return storage.jobs.insert(connection, trigger="manual", holder="somebody")
        except JobRunningError:
            return None

    with ThreadPoolExecutor(8) as pool:
        started = [job_id for job_id in pool.map(start, range(16)) if job_id is not None]
    assert len(started) == 1


def test_versions_that_many_switch_at_once_stay_one_history(database, settings):
    registries = [Registry(database, settings.model_dir) for _ in range(4)]
    for _ in range(4):
        add_version(registries[0], settings)

    def switch(worker):
        registry, chance = registries[worker], random.Random(worker)
        for _ in range(12):
            with contextlib.suppress(ConflictError):  # somebody else was quicker
                if chance.random() < 0.4:
                    target = registry.switch.rollback_target()
                    registry.switch.roll_back(registry.versions.load(target), actor=f"w{worker}")
                else:
                    model = registry.versions.load(chance.randint(1, 4))
                    registry.switch.activate(model, actor=f"w{worker}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(switch, range(4)))
    with database.read() as connection:
        active = storage.models.active_version(connection)
        history = storage.timeline.page(connection, limit=1000)
    assert history[0].version == active
    changes = [entry.version for entry in reversed(history)]
    assert len(changes) > 4
    assert all(earlier != later for earlier, later in itertools.pairwise(changes))
    found = audit.verify(database, settings)
    assert found.ok, found.problem
    actions = [entry.action for entry in audit.entries(database, limit=1000)]
    assert sum(action in {"activate", "rollback"} for action in actions) == len(changes)


WRITER_THAT_STOPS = """
import sys
from reckeeper import storage
from reckeeper.config import Settings
from reckeeper.interactions import Interaction
from reckeeper.storage import engine

engine.BUSY_TIMEOUT_SECONDS = 2
database = storage.open_database(Settings.from_env())
with database.write() as connection:
    storage.interactions.append(
        connection, [Interaction("held", "u", "i", "click", 1.0, 1)]
    )
    print("in the middle", flush=True)
    sys.stdin.readline()
"""


@pytest.mark.fault(
    "A process stops in the middle of a transaction on PostgreSQL",
    seen="others wait, up to a minute",
    kept="what was committed",
    heals="the database ends the transaction; the sleeper's write fails",
)
def test_a_writer_that_is_stopped_in_the_middle_keeps_nobody_out_for_ever(database, start_python):
    writer = start_python(WRITER_THAT_STOPS)
    assert writer.stdout.readline() == "in the middle\n"
    writer.send_signal(signal.SIGSTOP)

    with database.write() as connection:
        assert storage.interactions.append(connection, [event("e")]) == 1
        assert storage.interactions.count(connection) == 1

    writer.send_signal(signal.SIGCONT)
    _, said = writer.communicate("\n", timeout=30)
    assert writer.returncode != 0
    assert "StorageError" in said


# A database that goes away


def test_a_write_is_tried_again_over_a_restart(tmp_path):
    with PostgreSQL() as cluster:
        settings = settings_in(tmp_path).replaced(database_url=cluster.create("x"))
        storage.migrate(settings)
        with contextlib.closing(storage.open_database(settings)) as database:

            def append(connection):
                return storage.interactions.append(connection, [event("e")])

            cluster.kill()
            with pytest.raises(StorageError, match="cannot be reached"):
                database.retrying(append, seconds=0.5)
            assert database.seconds_reached() < 5
            with ThreadPoolExecutor() as pool:
                waiting = pool.submit(database.retrying, append, seconds=60)
                cluster.start()
                assert waiting.result(60) == 1
            with database.read() as connection:
                assert storage.interactions.count(connection) == 1


@pytest.mark.fault(
    "PostgreSQL restarts during an import",
    seen="the import pauses",
    kept="every row, once",
    heals="by itself",
)
def test_an_import_goes_on_over_a_restart(tmp_path):
    n_rows = 400_000
    file = tmp_path / "events.csv"
    with file.open("w") as lines:
        lines.write("user_id,item_id\n")
        lines.writelines(f"u{n % 5000},i{n % 700}\n" for n in range(n_rows))
    with PostgreSQL() as cluster, Installation(tmp_path, DATABASE_URL=cluster.create("x")) as site:
        site.migrate()

        def n_stored():
            with cluster.connect("x") as connection:
                return connection.execute("SELECT count(*) FROM user_interactions").fetchone()[0]

        command = [str(BIN / "reckeeper"), "import", str(file), "--json"]
        importing = site.start("import", command)
        wait_until(n_stored, "the first rows are there")
        cluster.kill()
        cluster.start()
        assert 0 < n_stored() < n_rows, "it was in the middle"
        assert importing.wait() == 0, importing.text()
        assert n_stored() == n_rows
        (listed,) = json.loads(site.run("imports", "list", "--json").stdout)
        assert (listed["status"], listed["accepted"], listed["duplicates"]) == (
            "complete",
            n_rows,
            0,
        )


@pytest.mark.fault(
    "PostgreSQL is killed under all processes, in a training too",
    seen="503 with `Retry-After`; lists of users who are in memory go on",
    kept="everything that was committed; the audit trail is whole",
    heals="by itself, when it is back",
)
def test_the_processes_outlive_the_database(tmp_path):
    with PostgreSQL() as cluster, Installation(tmp_path, DATABASE_URL=cluster.create("x")) as site:
        site.run("migrate")
        worker = site.start_worker()
        server = site.start_server()
        rows = [{**row, "event_id": f"e{n}"} for n, row in enumerate(clicks(8, 12))]
        site.send(rows)
        assert site.retrain() == 1
        before = site.server.get("/recommendations/u1").json()

        # While a training reads: it waits, then says what was the matter.
        with site.held_training(worker) as job:
            cluster.kill()
        for method, path, body in (
            ("POST", "/user_interactions", {**rows[0], "event_id": "new"}),
            ("GET", "/models", None),
            ("GET", "/watchlist/u1", None),
            ("POST", "/models/1/activate", None),
            ("PUT", "/policy", {}),
        ):
            answer = site.server.request(method, path, json=body)
            assert answer.status_code == 503, (path, answer.text)
            assert int(answer.headers["Retry-After"]) > 0
            assert answer.json()["code"] == "storage_failed"
            assert "cannot be reached" in answer.json()["message"]
            assert cluster.PASSWORD not in answer.text
            assert not re.search("reckeeper[@:]|127.0.0.1|postgresql", answer.text), answer.text
        # Whose list can be made from memory gets it all the same.
        assert site.server.get("/recommendations/u1").json()["items"] == before["items"]
        assert site.server.get("/health/live").status_code == 200
        assert site.worker.get("/health/live").status_code == 200
        assert site.server.get("/health/ready").status_code == 503
        answer = site.worker.get("/models")
        assert (answer.status_code, "Retry-After" in answer.headers) == (503, True)

        cluster.start()
        wait_until(
            lambda: site.server.get("/health/ready").status_code == 200, "the server is back"
        )
        ended = site.wait_for_job(job["job_id"], seconds=60)
        assert ended["status"] in {"succeeded", "failed"}, ended
        if ended["status"] == "failed":
            assert "cannot be reached" in ended["error"]["message"]
        assert site.server.get("/recommendations/u1").json()["items"] == before["items"]
        answer = site.server.post("/user_interactions", json={**rows[0], "event_id": "new"})
        assert answer.status_code == 200, answer.text
        site.retrain()
        with plain(site.environ["DATABASE_URL"]) as connection:
            n_rows = connection.execute("SELECT count(*) FROM user_interactions").fetchone()
        assert n_rows == (len(rows) + 1,)
        assert is_alive(worker.pid)
        assert is_alive(server.pid)
        assert "Traceback" not in worker.text() + server.text()
        assert site.run("audit", "verify").returncode == 0


@pytest.mark.fault(
    "PostgreSQL hangs (SIGSTOP)",
    seen="liveness 200, readiness 503, posts 503",
    kept="a row sent again is a duplicate",
    heals="by itself, when it answers",
)
def test_a_database_that_is_held_still_holds_up_no_health_route(tmp_path):
    with PostgreSQL() as cluster, Installation(tmp_path, DATABASE_URL=cluster.create("x")) as site:
        site.migrate()
        site.start_worker()
        site.start_server()
        rows = [{**row, "event_id": f"e{n}"} for n, row in enumerate(clicks(60, 40))]
        site.send(rows)

        def get(path):
            return site.server.get(path, timeout=90).status_code

        with ThreadPoolExecutor(60) as pool:
            list(pool.map(get, ["/models"] * 25))  # many connections that stand
            job = site.server.post("/evaluations", params={"wait": "false"}).json()["job"]
            cluster.suspend()
            answer = site.server.post("/user_interactions", json=rows)
            assert answer.status_code == 503, answer.text
            assert int(answer.headers["Retry-After"]) > 0
            assert "event_id" in answer.json()["message"]
            waiting = [pool.submit(get, "/recommendations/u1") for _ in range(50)]
            for caller in (site.server, site.worker):
                for path, status in (("live", 200), ("ready", 503)):
                    answer = caller.get(f"/health/{path}", timeout=5)
                    assert answer.status_code == status, answer.text
            time.sleep(5)  # by now the lease of the job has lapsed
            cluster.resume()
            assert {answer.result(90) for answer in waiting} <= {200, 503}
        ended = site.wait_for_job(job["job_id"], seconds=120)
        assert ended["status"] == "succeeded", ended
        answer = site.server.post("/user_interactions", json=rows)
        assert answer.json() == {"status": "ok", "accepted": 0, "duplicates": len(rows)}
        assert site.retrain() == 1


@pytest.mark.fault(
    "The database is slow",
    seen="who writes waits as long; lists from memory and liveness do not",
    kept="every row, once",
    heals="nothing has to",
)
@pytest.mark.fault(
    "The database takes no writes: a standby, or set so",
    seen="503 for what writes, and why; `/health/ready` too; lists go on",
    kept="everything that was accepted",
    heals="by itself, once it takes writes",
)
def test_a_database_that_is_slow_and_then_read_only(tmp_path, url):
    with Installation(tmp_path, DATABASE_URL=url) as site, plain(url) as connection:
        site.migrate()
        server = site.start_server()
        rows = [{**row, "event_id": f"e{n}"} for n, row in enumerate(clicks(8, 12))]
        site.send(rows)
        assert site.server.get("/recommendations/u1").json()["items"]

        def lists_go_on():
            assert site.server.get("/health/live").status_code == 200
            return site.server.get("/recommendations/u1").status_code == 200

        def post(number):
            row = {**rows[0], "event_id": f"late-{number}"}
            return site.server.post("/user_interactions", json=row)

        def cut_all_connections():
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )

        connection.execute(
            "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql "
            "AS 'BEGIN PERFORM pg_sleep(0.5); RETURN NULL; END'"
        )
        slow = "TRIGGER slow {} user_interactions"
        connection.execute(f"CREATE {slow.format('AFTER INSERT ON')} EXECUTE FUNCTION dawdle()")
        with ThreadPoolExecutor() as pool:
            waiting = [pool.submit(post, number) for number in range(3)]
            assert lists_go_on()
            assert {answer.result().status_code for answer in waiting} == {200}
        connection.execute(f"DROP {slow.format('ON')}")

        name = connection.info.dbname
        connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        cut_all_connections()
        answer = wait_until(
            lambda: (found := post(3)).status_code == 503 and "no writes" in found.text and found,
            "writing is refused",
        )
        assert "default_transaction_read_only" in answer.json()["message"]
        assert int(answer.headers["Retry-After"]) > 0
        assert lists_go_on()
        ready = site.server.get("/health/ready")
        assert (ready.status_code, "no writes" in ready.text) == (200, True)

        connection.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
        cut_all_connections()
        wait_until(
            lambda: site.server.get("/health/ready").json()["status"] == "ok",
            "it finds out by itself",
        )
        assert post(3).json()["accepted"] == 1
        found = connection.execute("SELECT count(*) FROM user_interactions").fetchone()
        assert found == (len(rows) + 4,)
        assert "Traceback" not in server.text()


def test_an_import_beside_the_server_of_another_installation_is_refused(tmp_path, url):
    rows = tmp_path / "events.csv"
    rows.write_text("user_id,item_id\nu1,i1\n")
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    with Installation(tmp_path / "one", DATABASE_URL=url) as one:
        assert "A new installation was made" in one.run("migrate").stdout
        one.start_server()
        one.run("import", rows)
        with Installation(
            tmp_path / "two",
            DATABASE_URL=url,
            RECKEEPER_DATABASE_SCHEMA="two",
            RECKEEPER_SERVER_PORT=str(one.server_port),
        ) as two:
            refused = two.run("import", rows, check=False)
            assert refused.returncode == 2
            assert "does not exist yet: nothing was done" in refused.stderr
            assert "DATABASE_URL" in refused.stderr
            two.run("migrate")
            for command in (("import", rows), ("retrain",)):
                refused = two.run(*command, check=False)
                assert refused.returncode == 2
                assert "belongs to another one: nothing was done" in refused.stderr
    with plain(url) as connection:
        found = connection.execute("SELECT count(*) FROM user_interactions").fetchone()
        other = connection.execute("SELECT count(*) FROM two.user_interactions").fetchone()
    assert (found, other) == ((1,), (0,))
