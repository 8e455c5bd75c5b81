"""`reckeeper import`, `imports` and `demo`: the command itself, before anything else runs."""

import contextlib
import json
import os
import pty
import subprocess
from datetime import datetime

import pytest
from tests.system.installation import BIN, ROOT, Installation

from reckeeper import policy, storage
from reckeeper.client import Client
from reckeeper.config import Settings
from reckeeper.events import demo

MOVIELENS = ROOT.parent / "shared" / "data" / "ml-latest-small"


@pytest.fixture
def made(tmp_path):
    """Give an installation of which nothing exists yet, wide enough for tables."""
    with Installation(tmp_path, COLUMNS="200", PYTHONWARNINGS="error") as made:
        yield made


@pytest.fixture
def write(tmp_path):
    """Give a function that writes a file into the test's folder."""

    def write(name, content):
        path = tmp_path / name
        path.write_text(content)
        return path

    return write


@pytest.fixture
def database(made):
    """Give the database of an installation that may have demo data."""
    settings = Settings.from_env(made.environ | {"RECKEEPER_DEMO": "1"})
    storage.migrate(settings)
    database = storage.open_database(settings)
    demo.load_if_empty(database, settings)
    yield database
    database.close()


def fails(made, *arguments):
    done = made.run(*arguments, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    return done.stderr


def test_it_imports_before_the_first_start(made, write):
    path = write("a.csv", "user_id,item_id\nu,i\n,i\nv,i\n")
    done = made.run("import", path)
    assert "accepted" in done.stdout
    assert "a.csv, line 3: user_id '' is empty" in done.stdout
    assert "1-refused.csv" in done.stdout
    assert "reckeeper retrain" in done.stdout
    assert str(made.data_dir / "reckeeper.sqlite3") in done.stdout
    assert "Importing a.csv" in done.stderr
    again = json.loads(made.run("import", path, "--json").stdout)
    assert (again["accepted"], again["duplicates"], again["refused"]) == (0, 2, 1)
    assert "is there already" in made.run("import", path).stdout


def test_tab_is_a_delimiter(made, write):
    path = write("a.csv", "user_id\titem_id\nu\ti\n")
    for name in ("tab", "\\t"):
        report = json.loads(made.run("import", path, "--delimiter", name, "--json").stdout)
        assert report["accepted"] + report["duplicates"] == 1


def test_it_reads_a_file_without_a_header(made, write):
    path = write("u.data", "196\t242\t3\t881250949\n186\t302\t3\t891717742\n")
    given = ("--no-header", "--user-column", "1", "--item-column", "2", "--time-column", "4")
    done = made.run("import", path, "--delimiter", "tab", *given, "--json")
    assert json.loads(done.stdout)["accepted"] == 2


def test_it_reads_several_files_and_standard_input(made, write):
    for number in range(3):
        write(f"day-{number}.csv", f"user_id;item_id\nu;i{number}\n;x\n")
    done = made.run("import", made.folder / "day-?.csv")
    assert "Refused: day-1.csv, line 3: user_id '' is empty." in done.stdout
    assert "day-2.csv was read as text in utf-8, semicolons between values." in done.stdout
    done = subprocess.run(
        [BIN / "reckeeper", "import", "-", "--delimiter", "::", "--encoding", "utf-16", "--json"],
        input="user_id::item_id\nu::i\n".encode("utf-16"),
        env=made.environ,
        capture_output=True,
        check=True,
    )
    report = json.loads(done.stdout)
    assert report["accepted"] == 1
    assert report["read_as"] == {"standard input": "text in utf-16, double colons between values"}
    assert [*(made.data_dir / "imports").iterdir()] == [made.data_dir / "imports" / "1-refused.csv"]


def test_a_file_that_is_mostly_refused_ends_with_status_1(made, write):
    path = write("a.csv", "user_id,item_id\nu,i\n,i\n,i\n")
    done = made.run("import", path, check=False)
    assert done.returncode == 1
    assert "2 of 3 rows were refused" in done.stderr
    assert "imports undo 1" in done.stderr
    assert made.run("import", path, "--max-refused", "0.7").returncode == 0


def test_it_takes_every_option(made, write):
    path = write("a.csv", "who;what;how;when;much;stars\nu;i;click;1000;3;5\nu;j;click;1;1;1\n")
    catalogue = write("c.csv", "what;name\ni;Film\n")
    target = made.folder / "refused.csv"
    done = made.run(
        "import", path, "--user-column", "who", "--item-column", "what", "--type-column", "how",
        "--time-column", "when", "--time-unit", "ms", "--default-time", "now", "--allow-old",
        "--timezone", "Asia/Tokyo", "--decimal", "point", "--weights", "click=2", "--yes",
        "--event-id-column", "stars", "--null", "none", "--max-refused", "1",
        "--weight-column", "much",
        "--rating-column", "stars", "--min-rating", "2", "--delimiter", ";",
        "--catalogue", catalogue, "--title-column", "name", "--report", target, "--json",
    )  # fmt: skip
    report = json.loads(done.stdout)
    assert (report["accepted"], report["without_taste"], report["items"]) == (2, 1, 1)
    assert report["refused_report"] == str(target)
    with made.database() as connection:
        rows = connection.execute(
            "SELECT user_id, item_id, interaction_type, weight, occurred_at FROM user_interactions"
        ).fetchall()
    assert rows == [("u", "i", "click", 3.0, 1_000_000), ("u", "j", "click", 0.0, 1_000)]


SHOP = (
    "visitor_id;customer_id;sku;ts;Aktion\n"
    "v1;c1;a;28.05.2013 14:03;view\nv2;c2;b;01.06.2013 9:00;cart\nv3;c3;b;01.06.2013;wish\n"
)


def on_a_terminal(made, *arguments, answers):
    """Run a command on a terminal, and answer what it asks; return its status and what it shows."""
    ours, its = pty.openpty()
    process = subprocess.Popen(
        [BIN / "reckeeper", *arguments], stdin=its, stdout=its, stderr=its, env=made.environ
    )
    os.close(its)
    shown, told = "", 0
    with contextlib.suppress(OSError):  # it has ended
        while part := os.read(ours, 4096):
            shown += part.decode(errors="replace")
            if answers and answers[0][0] in shown[told:]:
                told = len(shown)
                os.write(ours, answers.pop(0)[1].encode())
    os.close(ours)
    return process.wait(), shown


def test_on_a_terminal_it_shows_what_a_file_is_and_asks(made, write):
    path = write("shop.csv", SHOP)
    given = ("import", path, "--type-column", "Aktion", "--weights", "view=1,cart=3,wish=2")
    status, shown = on_a_terminal(made, *given, answers=[("user?", "2\n"), ("[Y/n]", "n\n")])
    assert status == 1
    assert "semicolons between values" in shown
    assert "2013-05-28 14:03:00" in shown
    assert "'sku', by its name" in shown
    assert "Nothing was imported" in shown
    status, _ = on_a_terminal(made, *given, answers=[("user?", "2\n"), ("[Y/n]", "y\n")])
    assert status == 0
    with made.database() as connection:
        users = connection.execute("SELECT user_id FROM user_interactions ORDER BY 1").fetchall()
    assert users == [("c1",), ("c2",), ("c3",)]


def test_without_a_terminal_what_is_doubtful_has_to_be_said(made, write):
    path = write("shop.csv", SHOP)
    told = fails(made, "import", path)
    assert "'visitor_id' and 'customer_id' could each be the user" in told
    assert "--user-column visitor_id or --user-column customer_id" in told
    done = made.run(
        "import", path, "--user-column", "customer_id", "--type-column", "Aktion",
        "--weights", "view=1", check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "Told by their names: 'sku' as the item, 'ts' as the time." in done.stderr
    assert "types that have no weight: cart (1 rows), wish (1 rows)" in done.stdout
    assert "--weights cart=1,wish=1" in done.stdout


def test_refusals_of_one_reason_are_told_together(made, write):
    path = write("a.csv", "user_id,item_id\n" + "u,i\n" * 9 + ",i\n" * 4)
    assert (
        "Refused: a.csv, 4 rows: user_id is empty: '' in line 11, '' in line 12, '' in line 13, …."
        in made.run("import", path).stdout
    )


def test_a_film_that_was_rated_low_is_never_recommended(made, write):
    ratings = write(
        "low_rating.csv",
        "userId,movieId,rating,timestamp\n"
        "1,10,5.0,1000000000\n1,20,0.5,1000000100\n1,30,4.0,1000000200\n"
        "2,10,5.0,1000000000\n2,20,5.0,1000000100\n2,40,4.0,1000000200\n"
        "3,10,4.0,1000000000\n3,20,5.0,1000000100\n3,30,4.5,1000000200\n",
    )
    report = json.loads(made.run("import", ratings, "--preset", "movielens", "--json").stdout)
    assert (report["accepted"], report["without_taste"]) == (9, 1)
    made.start_worker()
    made.start_server()
    made.retrain()
    with Client(f"http://127.0.0.1:{made.server_port}") as client:

        def recommended():
            return [item.item_id for item in client.recommendations("1").items]

        assert recommended() == ["40"]
        client.dismiss("1", "40")
        assert recommended() == []
        client.undo_dismiss("1", "40")
        assert recommended() == ["40"]


def test_the_movielens_preset_finds_its_catalogue(made):
    if not MOVIELENS.is_dir():
        pytest.skip(f"MovieLens is not in {MOVIELENS}")
    ratings = ("import", MOVIELENS / "ratings.csv", "--preset", "movielens", "--json")
    report = json.loads(made.run(*ratings).stdout)
    assert (report["accepted"], report["without_taste"]) == (100_004, 48_436)
    assert report["items"] == 9_125
    report = json.loads(made.run(*ratings).stdout)
    assert (report["accepted"], report["duplicates"]) == (0, 100_004)


def test_the_id_of_the_catalogue_may_have_a_name_of_its_own(made, write):
    path = write("a.csv", "user_id,item_id\nu,i\n")
    catalogue = write("c.csv", "thing,title\ni,Film\n")
    told = fails(made, "import", path, "--catalogue", catalogue)
    assert "no column 'item_id'" in told
    assert "--catalogue-item-column" in told
    done = made.run(
        "import", path, "--catalogue", catalogue, "--catalogue-item-column", "thing", "--json"
    )
    assert json.loads(done.stdout)["items"] == 1


@pytest.mark.parametrize(
    "arguments",
    [("imports", "list"), ("imports", "undo", "1"), ("demo", "status"), ("demo", "clear")],
)
def test_only_an_import_makes_a_database(made, arguments):
    assert "reckeeper migrate" in fails(made, *arguments)
    assert not made.data_dir.exists()


def test_it_fails_in_words(made, write):
    assert "No such file" in fails(made, "import", "nope.csv")
    told = fails(made, "import", write("a.csv", "who,what\nu,i\n"))
    assert "no column 'user_id'" in told
    assert "--user-column" in told
    assert "Importing" not in told
    assert "No row of" in fails(made, "import", write("b.csv", "user_id,item_id\n,i\n"))
    told = fails(made, "imports", "undo", "9")
    assert "no import 9" in told
    assert "Undoing" not in told


def test_imports_are_listed_and_undone(made, write):
    made.run("migrate")
    assert "Nothing was imported yet" in made.run("imports", "list").stdout
    made.run("import", write("a.csv", "user_id,item_id\nu,i\n"))
    (row,) = json.loads(made.run("imports", "list", "--json").stdout)
    assert (row["import_id"], row["accepted"], row["status"]) == (1, 1, "complete")
    assert datetime.fromisoformat(row["started_at"]).tzinfo is not None
    assert "a.csv" in made.run("imports", "list").stdout
    undone = made.run("imports", "undo", "1").stdout
    assert "1 interactions" in undone
    assert "Now retrain" in undone
    assert "undone already" in fails(made, "imports", "undo", "1")


def test_an_import_that_brought_nothing_is_undone_without_a_retrain(made, write):
    fails(made, "import", write("a.csv", "user_id,item_id\n,i\n"))
    undone = made.run("imports", "undo", "1")
    assert "0 interactions" in undone.stdout
    assert "Now retrain" not in undone.stdout
    assert [json.loads(line)["event"] for line in undone.stderr.splitlines()] == ["audit_head"]


def test_only_an_import_that_brings_something_replaces_the_demo(made, write, database):
    fails(made, "import", write("wrong.csv", "who,what\nu,i\n"))
    fails(made, "import", write("bad.csv", "user_id,item_id\n,i\n"))
    assert demo.info(database).is_loaded
    done = made.run("import", write("a.csv", "user_id,item_id\nu,i\n"))
    assert "demo data (60,105 interactions) and its models were removed" in done.stdout
    assert not demo.info(database).is_loaded
    with database.read() as connection:
        assert storage.interactions.count(connection) == 1


def test_the_demo_commands(made, database):
    status = json.loads(made.run("demo", "status", "--json").stdout)
    assert (status["is_loaded"], status["n_interactions"]) == (True, 60_105)
    assert "user-0001" in made.run("demo", "status").stdout
    assert "60,105 interactions" in made.run("demo", "clear").stdout
    assert "There is no demo data" in made.run("demo", "clear").stdout
    assert "not loaded" in made.run("demo", "status").stdout
    with database.read() as connection:
        assert storage.interactions.is_empty(connection)


def test_types_are_taken_that_the_stored_policy_weighs(made, write, database):
    settings = Settings.from_env(made.environ)
    with database.read() as connection:
        current = policy.current(connection, settings).policy.model_dump()
    policy.store(database, settings, {**current, "weights": {"view": 3.0}}, actor="test")
    views = write("views.csv", "user_id,item_id,interaction_type\nu,i,view\nu,j,click\n")
    done = made.run("import", views, "--json")
    assert (json.loads(done.stdout)["accepted"], json.loads(done.stdout)["refused"]) == (1, 1)
