"""The demo data: plausible, the same each time, and gone when it was removed."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from tests.unit.small_models import stored_version

from reckeeper import audit, linalg, matrix, storage
from reckeeper.config import Settings
from reckeeper.events import demo, files
from reckeeper.interactions import Interaction, schema
from reckeeper.matrix import Histories
from reckeeper.recipes.svd import Svd

ROOT = Path(__file__).parents[2]
DAY = 86_400_000_000
NOW = 1_764_891_735_000_000  # 2025-12-04 23:42:15 UTC


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.replaced(demo=True)


@pytest.fixture(scope="module")
def rows() -> list[Interaction]:
    return demo.interactions(NOW)


@pytest.fixture(scope="module")
def trained(rows: list[Interaction]) -> matrix.InteractionMatrix:
    columns = list(zip(*rows, strict=True))[1:]
    batch = pa.RecordBatch.from_arrays(
        [pa.array(column, field.type) for column, field in zip(columns, schema(), strict=True)],
        schema=schema(),
    )
    return matrix.build([batch], type_weights={"click": 1.0, "watchlist_add": 2.0})


def count(database: storage.Database) -> int:
    with database.read() as connection:
        return storage.interactions.count(connection)


def test_the_size_is_that_of_a_small_shop(rows):
    assert 55_000 < len(rows) < 65_000
    assert len({row.user_id for row in rows}) == 2_000
    assert len({row.item_id for row in rows}) == 500
    assert len({row.event_id for row in rows}) == len(rows)
    kinds = Counter(row.interaction_type for row in rows)
    assert set(kinds) == {"click", "watchlist_add", "watchlist_remove"}
    assert kinds["click"] > 10 * kinds["watchlist_add"] > 50 * kinds["watchlist_remove"] > 5_000


def test_titles_are_unique_and_have_a_category_and_a_year():
    items = demo.catalogue()
    assert [item.item_id for item in items] == [f"film-{n:04d}" for n in range(1, 501)]
    assert len({item.title for item in items}) == 500
    assert 10 <= len({item.attributes["category"] for item in items}) <= 12
    assert all(1975 <= item.attributes["year"] <= 2025 for item in items)
    assert demo.catalogue() == items


def test_it_is_the_same_each_time_apart_from_the_date(rows):
    assert demo.interactions(NOW) == rows
    later = demo.interactions(NOW + 10 * DAY + DAY // 50)
    assert [row._replace(occurred_at=row.occurred_at + 11 * DAY) for row in rows] == later


def test_it_lies_in_the_last_ninety_days_in_order(rows):
    times = [row.occurred_at for row in rows]
    assert times == sorted(times)
    assert NOW - 91 * DAY < times[0] < NOW - 89 * DAY
    assert NOW - 2 * DAY < times[-1] <= NOW


def test_evenings_are_busy_and_nights_quiet(rows):
    hours = Counter(row.occurred_at % DAY // (DAY // 24) for row in rows)
    assert hours[20] > 5 * hours[4] > 0


def test_popularity_and_activity_have_long_tails(rows):
    for name in ("item_id", "user_id"):
        counts = sorted(Counter(getattr(row, name) for row in rows).values(), reverse=True)
        top = sum(counts[: len(counts) // 10]) / len(rows)
        assert 0.25 < top < 0.6, f"the top tenth by {name} has {top:.0%}"
        assert counts[-1] >= 5


def test_people_come_back_to_what_they_saw(rows):
    clicks = Counter((row.user_id, row.item_id) for row in rows if row.interaction_type == "click")
    assert sum(1 for n in clicks.values() if n > 1) > 2_000


def test_additions_follow_a_click_and_removals_an_addition(rows):
    first: dict[tuple[str, str, str], int] = {}
    for row in rows:
        first.setdefault((row.user_id, row.item_id, row.interaction_type), row.occurred_at)
        before = {"watchlist_add": "click", "watchlist_remove": "watchlist_add"}
        if row.interaction_type in before:
            earlier = first[row.user_id, row.item_id, before[row.interaction_type]]
            assert earlier < row.occurred_at


def test_an_svd_recommends_what_a_user_likes(trained):
    """Of ten recommendations nine are of the user's own categories; by chance two would be."""
    category_of = {item.item_id: item.attributes["category"] for item in demo.catalogue()}
    names = sorted(set(category_of.values()))
    category = np.array([names.index(category_of[item]) for item in trained.items.ids])
    model = Svd.fit(trained, settings={"n_components": 10})
    hits, chance, popular = [], [], []
    popularity = np.bincount(trained.weights.indices, minlength=len(trained.items)).astype(float)
    for user in range(len(trained.users)):
        row = trained.weights[[user]]
        shares = np.bincount(category[row.indices], weights=row.data, minlength=len(names))
        liked = np.flatnonzero(shares / shares.sum() >= 0.2)
        best = linalg.top_k(model.score(Histories(row))[0], 10, exclude=row.indices)
        known = linalg.top_k(popularity, 10, exclude=row.indices)
        hits.append(np.isin(category[best], liked).mean())
        chance.append(np.isin(category, liked).mean())
        popular.append(np.isin(category[known], liked).mean())
    assert np.mean(chance) < 0.25
    assert np.mean(popular) < 0.25
    assert np.mean(hits) > 0.85


def test_it_is_loaded_into_an_empty_database_once(database, settings, rows):
    assert not demo.info(database).is_loaded
    assert demo.load_if_empty(database, settings)
    assert not demo.load_if_empty(database, settings)
    assert count(database) == len(rows)
    info = demo.info(database)
    assert info.is_loaded
    assert info.n_interactions == len(rows)
    with database.read() as connection:
        (row,) = storage.imports.all_imports(connection)
        assert row.is_demo
        assert row.status == storage.imports.COMPLETE
        assert row.accepted == len(rows)
        entry = audit.entries(database, limit=1)[0]
        assert entry.action == "load_demo"
        film = storage.items.get_many(connection, ["film-0173"])["film-0173"]
        assert film == demo.catalogue()[172]
        for user in info.sample_users:
            assert storage.interactions.of_user(connection, user).num_rows
        listed = [len(storage.interactions.watchlist_of(connection, f"user-{n:04d}"))
                  for n in range(1, 101)]  # fmt: skip
        assert sum(listed) > 100


def test_it_is_never_loaded_where_it_is_not_wanted(database, settings, tmp_path):
    assert not demo.load_if_empty(database, settings.replaced(demo=False))
    named = settings.replaced(database_url=f"sqlite:///{tmp_path}/own.db")
    storage.migrate(named)
    own = storage.open_database(named)
    assert not demo.load_if_empty(own, named)
    assert count(own) == count(database) == 0
    own.close()


def test_it_is_never_loaded_beside_anything(database, settings, tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("user_id,item_id\nu,i\n")
    files.import_file(database, path, format=files.FileFormat(), settings=settings, actor="test")
    assert not demo.load_if_empty(database, settings)
    files.undo(database, 1, actor="test")
    assert not demo.load_if_empty(database, settings)
    assert count(database) == 0


@pytest.mark.parametrize("what", ["interaction", "version"])
def test_it_is_not_loaded_into_what_was_used(database, settings, what):
    with database.write() as connection:
        if what == "interaction":
            row = Interaction("e", "u", "i", "click", 1.0, 5)
            storage.interactions.append(connection, [row])
        else:
            storage.models.insert(connection, stored_version(1, deleted_at=5))
    assert not demo.load_if_empty(database, settings)


def test_of_two_processes_one_loads(settings, database, rows):
    script = (
        "from reckeeper import storage\n"
        "from reckeeper.config import Settings\n"
        "from reckeeper.events import demo\n"
        "settings = Settings.from_env()\n"
        "database = storage.open_database(settings)\n"
        "input()\n"
        "raise SystemExit(0 if demo.load_if_empty(database, settings) else 3)\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env={**settings.to_env(), "PYTHONPATH": str(ROOT / "src")},
            text=True,
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.close()
    assert sorted(process.wait(timeout=60) for process in processes) == [0, 3, 3]
    assert count(database) == len(rows)


def test_what_was_cleared_does_not_come_back(database, settings, rows):
    demo.load_if_empty(database, settings)
    with database.write() as connection:
        row = Interaction("mine", "u", "i", "click", 1.0, 5)
        storage.interactions.append(connection, [row])
    assert demo.clear(database, actor="test") == len(rows)
    assert not demo.info(database).is_loaded
    assert demo.info(database).sample_users == ()
    assert count(database) == 1
    with database.read() as connection:
        assert storage.items.get_many(connection, ["film-0001", "film-0500"]) == {}
        assert storage.interactions.watchlist_of(connection, "user-0001") == []
    assert demo.clear(database, actor="test") == 0
    assert not demo.load_if_empty(database, settings)


def test_clearing_can_be_taken_up_after_a_crash(database, settings, rows):
    demo.load_if_empty(database, settings)

    class Crash(Exception):
        pass

    def crash(n_rows: int) -> None:
        raise Crash

    with pytest.raises(Crash):
        files.undo(database, 1, actor="test", on_progress=crash)
    left = count(database)
    assert 0 < left < len(rows)
    assert demo.clear(database, actor="test") == left
    assert count(database) == 0
