"""`reckeeper import --database`: the command itself, out of a real PostgreSQL."""

import itertools
import json
import subprocess

import pytest
from tests.system.installation import BIN, Installation, free_port

N_ROWS = 200_000
QUERY = (
    "SELECT customer_id AS user_id, product AS item_id, bought_at AS occurred_at, "
    "amount AS weight, note FROM orders WHERE product LIKE 'p%'"
)


@pytest.fixture
def made(tmp_path):
    """Give an installation of which nothing exists yet, wide enough for tables."""
    with Installation(tmp_path, COLUMNS="300", PYTHONWARNINGS="error") as made:
        yield made


@pytest.fixture(scope="module")
def shop(postgresql):
    """Give the URL of a shop's database, whose rows are wide: 400 MB in all."""
    url = postgresql.create("shop")
    with postgresql.connect("shop") as connection:
        connection.execute(
            f"""
            CREATE TABLE orders AS SELECT
                md5((n % 20000)::text)::uuid AS customer_id,
                'p' || n % 500 AS product,
                timestamptz '2024-01-01 01:00+01' + n * interval '1 minute' AS bought_at,
                (1 + n % 3)::numeric(10, 2) AS amount,
                repeat(chr(97 + n % 26), 2000) AS note
            FROM generate_series(1, {N_ROWS}) AS n
            """
        )
        connection.execute(
            "CREATE FUNCTION forget() RETURNS bigint LANGUAGE sql AS "
            "'WITH gone AS (DELETE FROM orders RETURNING 1) SELECT count(*) FROM gone'"
        )
    yield url
    postgresql.drop("shop")


@pytest.mark.parametrize("form", ["csv, HEADER", "csv, HEADER, DELIMITER ';'", "text, HEADER"])
def test_what_copy_writes_is_read(made, postgresql, tmp_path, form):
    rows = """
        SELECT n AS user_id, 'Käse "' || n || '", alt' AS item_id, nullif(n, 3) AS weight,
            timestamptz '2024-05-28 14:03:00.5+02' + n * interval '1 day' AS occurred_at
        FROM generate_series(1, 4) AS n ORDER BY n
    """
    path = tmp_path / "orders"
    with (
        postgresql.connect("postgres") as connection,
        connection.cursor().copy(f"COPY ({rows}) TO STDOUT (FORMAT {form})") as copy,
    ):
        path.write_bytes(b"".join(copy))
    made.run("import", path)
    with made.database() as connection:
        stored = connection.execute(
            "SELECT user_id, item_id, weight, occurred_at FROM user_interactions ORDER BY id"
        ).fetchall()
    first = 1_716_897_780_500_000
    assert stored == [
        (str(n), f'Käse "{n}", alt', 1.0 if n == 3 else float(n), first + n * 86_400_000_000)
        for n in range(1, 5)
    ]


@pytest.fixture
def n_orders(postgresql, shop):
    """Return a function that counts the shop's orders."""

    def count():
        with postgresql.connect("shop") as connection:
            return connection.execute("SELECT count(*) FROM orders").fetchone()[0]

    return count


@pytest.fixture
def own_database(postgresql):
    """Return a function that makes a PostgreSQL database for the installation."""
    numbers, names = itertools.count(1), []

    def make():
        names.append(f"own_{next(numbers)}")
        return postgresql.create(names[-1])

    yield make
    for name in names:
        postgresql.drop(name)


def fails(made, *arguments, **environ):
    done = made.run(*arguments, check=False, **environ)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def run_measured(made, *arguments):
    """Run `reckeeper …`; return its output and its greatest memory in bytes."""
    code = (
        "import sys; from reckeeper import cli, telemetry\n"
        "try: cli.main()\n"
        "finally: print(telemetry.peak_memory_bytes(), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [BIN / "python", "-c", code, *arguments],
        cwd=made.folder,
        env=made.environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout, int(done.stderr.split()[-1])


def test_a_table_is_imported_in_bounded_memory(made, shop, n_orders):
    small = f"{QUERY} LIMIT 1000"
    _, peak_of_few = run_measured(made, "import", "--database", shop, "--query", small, "--json")

    output, peak = run_measured(made, "import", "--database", shop, "--query", QUERY, "--json")

    report = json.loads(output)
    assert (report["accepted"], report["duplicates"]) == (N_ROWS - 1000, 1000)
    assert peak - peak_of_few < 250e6, f"{peak} and {peak_of_few} bytes, of 400 MB"
    with made.database() as connection:
        assert connection.execute(
            "SELECT count(DISTINCT user_id), min(occurred_at), sum(weight) FROM user_interactions"
        ).fetchone() == (
            20_000,
            1_704_067_260_000_000,
            sum(1 + n % 3 for n in range(1, N_ROWS + 1)),
        )
        assert connection.execute(
            "SELECT user_id, interaction_type FROM user_interactions WHERE occurred_at = ?",
            (1_704_067_260_000_000,),
        ).fetchone() == ("c4ca4238-a0b9-2382-0dcc-509a6f75849b", "click")
    assert n_orders() == N_ROWS


def test_a_repeat_adds_what_is_new_and_an_undo_takes_it_out(made, shop, postgresql):
    few = f"{QUERY} ORDER BY bought_at LIMIT 10"
    first = made.run("import", "--database", shop, "--query", few)
    assert "accepted" in first.stdout
    assert "Importing postgresql+psycopg://reckeeper:***@" in first.stderr
    more = made.run("import", "--database", shop, "--query", few.replace("10", "15"), "--json")
    report = json.loads(more.stdout)
    assert (report["accepted"], report["duplicates"], report["refused"]) == (5, 10, 0)
    listed = made.run("imports", "list").stdout
    assert "(SELECT customer_id AS user_id" in listed
    assert "5 interactions" in made.run("imports", "undo", "2").stdout
    for text in (first.stdout, first.stderr, more.stdout, more.stderr, listed):
        assert postgresql.PASSWORD not in text
    assert all(
        postgresql.PASSWORD.encode() not in path.read_bytes()
        for path in made.folder.rglob("*")
        if path.is_file()
    )


def test_the_database_that_is_written_to_can_be_asked(made, own_database, postgresql):
    url = own_database()
    with postgresql.connect(url.rpartition("/")[2]) as connection:
        connection.execute(
            "CREATE TABLE legacy AS SELECT n AS user_id, n % 7 AS item_id, to_timestamp(n) AS at "
            "FROM generate_series(1, 100000) AS n"
        )
    given = ("import", "--database", url, "--query", "SELECT * FROM legacy", "--json")
    given = (*given, "--time-column", "at", "--allow-old")
    done = json.loads(made.run(*given, DATABASE_URL=url).stdout)
    assert done["accepted"] == 100_000
    assert postgresql.PASSWORD not in done["database"]
    done = json.loads(made.run(*given, DATABASE_URL=url).stdout)
    assert (done["accepted"], done["duplicates"]) == (0, 100_000)


def test_the_password_may_come_from_libpq(made, shop, postgresql):
    bare = f"postgresql://reckeeper@127.0.0.1:{postgresql.port}/shop"
    given = ("import", "--database", bare, "--query", f"{QUERY} LIMIT 1", "--json")
    done = made.run(*given, PGPASSWORD=postgresql.PASSWORD)
    assert json.loads(done.stdout)["accepted"] == 1


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("SELECT nope FROM orders", 'column "nope" does not exist'),
        ("SELECT 1 AS user_id", "no column 'item_id'"),
        ("DELETE FROM orders RETURNING customer_id", 'syntax error at or near "DELETE"'),
        ("WITH x AS (DELETE FROM orders RETURNING 1) SELECT * FROM x", "must not contain data-"),
        ("SELECT forget()", "in a read-only transaction"),
        ("SELECT 1; DELETE FROM orders", "cannot insert multiple commands"),
        ("SELECT 1 AS user_id, ARRAY[1] AS item_id", "values of the type list"),
        ("SELECT true AS user_id, 1 AS item_id", "has the type bool"),
        ("SELECT 1 AS user_id, 1 AS item_id, 'infinity'::timestamp AS occurred_at", "'infinity'"),
    ],
)
def test_queries_that_fail_or_write_change_nothing(made, shop, n_orders, query, said):
    assert said in fails(made, "import", "--database", shop, "--query", query)
    assert n_orders() == N_ROWS
    imports = json.loads(made.run("imports", "list", "--json").stdout)
    assert not any(row["accepted"] for row in imports)


def test_what_lies_in_the_way_is_said_without_the_password(made, shop, postgresql):
    query = ("--query", QUERY)
    wrong = shop.replace("s3cret", "guess")
    told = fails(made, "import", "--database", wrong, *query)
    assert "password authentication failed" in told
    assert "reckeeper:***@" in told
    assert "guess" not in told
    down = shop.replace(str(postgresql.port), str(free_port()))
    told = fails(made, "import", "--database", down, *query)
    assert "cannot be reached" in told
    assert "Connection refused" in told
    assert "s3cret" not in told
    told = fails(made, "import", "--database", "mysql+pymysql://me:s3cret@host/shop", *query)
    assert "python -m pip install pymysql" in told
    told = fails(made, "import", "--database", shop, "--query", "SELECT 1 / 0", "--report", "a.csv")
    assert "division by zero" in told


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--database", "sqlite:///a.db"),
        ("--query", "SELECT 1"),
        ("a.csv", "--database", "sqlite:///a.db", "--query", "SELECT 1"),
    ],
    ids=["nothing", "no query", "no database", "file and database"],
)
def test_it_takes_either_a_file_or_a_database(made, arguments):
    assert "either a FILE, or --database with --query" in fails(made, "import", *arguments)
    assert not made.data_dir.exists()


def test_a_connection_that_is_lost_in_the_middle_is_said_and_a_repeat_goes_on(made, shop):
    n_rows = 60_000
    query = f"{QUERY} AND bought_at <= '2024-01-01 00:00Z'::timestamptz + '{n_rows} min'::interval"
    lost = (
        f"SELECT *, CASE WHEN number = {n_rows - 1} THEN pg_terminate_backend(pg_backend_pid()) "
        f"END FROM (SELECT row_number() OVER () AS number, rows.* FROM ({query}) AS rows) AS x"
    )
    told = fails(made, "import", "--database", shop, "--query", lost)
    assert "terminating connection" in told
    assert "`reckeeper imports undo 1`" in told
    (row,) = json.loads(made.run("imports", "list", "--json").stdout)
    assert 0 < row["accepted"] < n_rows

    done = made.run("import", "--database", shop, "--query", query, "--json")

    report = json.loads(done.stdout)
    assert report["duplicates"] == row["accepted"]
    assert report["accepted"] == n_rows - row["accepted"]
