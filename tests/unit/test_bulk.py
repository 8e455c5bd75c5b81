"""Lists of many users: those that the server would answer, one after the other, as a file."""

import json
import random

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from reckeeper import catalogue, people, policy, storage
from reckeeper.catalogue import Catalogue
from reckeeper.cli.commands import app
from reckeeper.errors import DataError, NoModelError, ReckeeperError
from reckeeper.policy import PolicyWatch
from reckeeper.serving import BulkLists, Newer, Rules, Serving
from reckeeper.training import pipeline


@pytest.fixture
def train(database, settings, registry):
    """Return a function that trains a recipe and makes the version the active one."""

    def run(recipe="spectral", **recipe_settings):
        request = {"recipe": recipe, "settings": recipe_settings}
        with database.write() as connection:
            job_id = storage.jobs.insert(connection, trigger="manual", request=request)
            job = storage.jobs.get(connection, job_id)
        version = pipeline.run(database, settings, job=job, report=lambda *_, **__: None)
        with database.write() as connection:
            storage.jobs.end(connection, job_id, status=storage.jobs.SUCCEEDED, version=version)
        registry.switch.activate(registry.versions.load(version), actor="test")
        return version

    return run


@pytest.fixture
def watched(database, settings):
    watch = PolicyWatch(database, settings)
    watch.start()
    yield watch
    watch.stop()


@pytest.fixture
def in_bulk(database, registry, watched):
    """Return a function that makes the lists of all users, or of some, as rows."""

    def make(user_ids=None, *, n=4):
        watched.refresh()
        lists = BulkLists(database, registry, watched)
        ids = list(lists.users()) if user_ids is None else user_ids
        rows, n_done = [], 0
        for n_users, batch in lists.lists(ids, n=n):
            n_done += n_users
            rows += [tuple(row.values()) for row in batch.to_pylist()]
        lists.close()
        assert n_done == len(ids)
        return rows

    return make


@pytest.fixture
def one_by_one(database, registry, watched):
    """Return a function that asks as a server does, and gives rows and strategies."""

    def ask(user_ids, *, n=4):
        watched.refresh()
        known = Catalogue(database, every_seconds=60)
        known.refresh()
        newer = Newer(database, every_seconds=60)
        serving = Serving(
            database, registry, watched, every_seconds=60, catalogue=known, newer=newer
        )
        serving.refresh()
        answers = [serving.recommend(user_id, Rules(n=n)) for user_id in user_ids]
        rows = [
            (answer.user_id, item.rank, item.item_id, item.score, answer.model_version)
            for answer in answers
            for item in answer.items
        ]
        return rows, {answer.strategy for answer in answers}

    return ask


def assert_same(rows, others):
    assert [row[:3] + row[4:] for row in rows] == [row[:3] + row[4:] for row in others]
    assert [row[3] for row in rows] == pytest.approx([row[3] for row in others], rel=1e-5)


DAY = 86_400_000_000
BEGAN = 1_700_000_000_000_000


@pytest.fixture
def past(add):
    """Add the clicks, additions and dismissals of 40 users, over 30 days."""
    draw = random.Random(3)
    kinds = ["click", "click", "click", "watchlist_add", "watchlist_remove", "dismiss"]
    add(
        *(
            (
                f"u{user:02}",
                f"i{item:02}",
                draw.choice(kinds),
                1.0,
                BEGAN + draw.randrange(30 * DAY),
            )
            for user in range(40)
            for item in range(15)
            for _ in range(draw.choice([0, 0, 1, 1, 2] if (item < 7) == (user < 20) else [0, 0, 1]))
        )
    )


@pytest.mark.parametrize(
    ("recipe", "recipe_settings", "content"),
    [
        ("svd", {"n_components": 3}, {}),
        ("svd", {"n_components": 3}, {"recommendations": {"seen_types": ["watchlist_add"]}}),
        ("spectral", {"n_components": 4}, {"half_life_days": 7, "window_days": 25}),
        ("spectral", {"n_components": 4}, {"max_interactions_per_user": 3}),
        (
            "popularity",
            {},
            {"recommendations": {"daily_variation": 0.5, "new_items_share": 0.5}},
        ),
    ],
    ids=["svd", "seen", "decay", "cap", "popular"],
)
def test_lists_are_those_of_the_server(
    database, settings, past, add, train, in_bulk, one_by_one, recipe, recipe_settings, content
):
    policy.store(database, settings, content, actor="test")
    train(recipe, **recipe_settings)
    later = BEGAN + 31 * DAY
    add(
        ("u03", "i09", "click", 1.0, later),
        ("u05", "i01", "dismiss", 1.0, later),
        ("new", "i02", "click", 1.0, later),
        ("seen", "i02", "click", 0.0, later),
        ("visitor", "i11", "click", 1.0, later),
    )
    people.merge(database, "u07", "visitor", actor="test")
    catalogue.put(database, "i04", {"available": False}, actor="test")
    catalogue.put(database, "unheard of", {"title": "New"}, actor="test")
    users = sorted({*(f"u{n:02}" for n in range(40)), "new", "seen"})
    rows, strategies = one_by_one(users)
    assert_same(in_bulk(), rows)
    assert strategies == (
        {"popular"} if recipe == "popularity" else {"model", "fold_in", "popular"}
    )
    some = ["u05", "nobody", "new", "u05", "visitor"]
    assert_same(in_bulk(some, n=30), one_by_one(some, n=30)[0])


def test_many_users_get_their_lists_in_order(past, add, train, in_bulk, one_by_one):
    train("spectral", n_components=4)
    add(*((f"v{n:04}", f"i{n % 15:02}", "click", 1.0, BEGAN) for n in range(700)))
    rows = in_bulk(n=1)
    assert [row[0] for row in rows] == sorted(row[0] for row in rows)
    assert len(rows) == 740
    some = [row[0] for row in rows[::97]]
    assert_same(rows[::97], one_by_one(some, n=1)[0])


def test_without_a_version_there_are_no_lists(past, in_bulk):
    with pytest.raises(NoModelError, match="no version yet") as error:
        in_bulk()
    assert error.value.action.name == "retrain"


# The command


@pytest.fixture
def run(database, settings):
    def call(*arguments):
        done = CliRunner().invoke(app, ["recommend", *map(str, arguments)], env=settings.to_env())
        if isinstance(done.exception, ReckeeperError):
            raise done.exception
        assert done.exit_code == 0, (done.output, done.exception)
        return done

    return call


def test_the_command_writes_a_file(past, train, in_bulk, run, tmp_path):
    version = train("svd", n_components=3)
    output = tmp_path / "lists.parquet"
    told = json.loads(run("--all", "--n", 3, "--output", output, "--json").stdout)
    table = pq.read_table(output)
    assert table.schema.names == ["user_id", "rank", "item_id", "score", "model_version"]
    assert_same([tuple(row.values()) for row in table.to_pylist()], in_bulk(n=3))
    assert told == {
        "output": str(output), "users": 40, "rows": table.num_rows, "model_version": version,
    }  # fmt: skip

    users = tmp_path / "users.txt"
    users.write_text("u05\nnobody\n")
    done = run("--users", users, "--output", output)
    assert "lists of 2 users" in done.stdout
    rows = pq.read_table(output).to_pylist()
    assert_same([tuple(row.values()) for row in rows], in_bulk(["u05", "nobody"], n=10))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Nobody is named"),
        (("u1", "--all"), "USER and --all do not go together"),
        (("u1", "--output", "lists.parquet"), "--output goes with"),
        (("--all",), "--all writes a file"),
        (("--all", "--output", "lists.csv"), "ends in .parquet"),
        (("--users", "none.txt", "--output", "lists.parquet"), "none.txt cannot be read"),
        (("--users", "bad.txt", "--output", "lists.parquet"), "line 2: the id must have 1 to 256"),
        (("--users", "empty.txt", "--output", "lists.parquet"), "names no user"),
    ],
)
def test_what_cannot_be_asked_for_is_said(run, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.txt").write_text("u1\n" + "x" * 257)
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(DataError, match=message):
        run(*arguments)
    assert not list(tmp_path.glob("*.parquet"))
