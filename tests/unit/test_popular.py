"""What is popular: counted by age, with a share for new items, varied from day to day."""

import collections
import datetime

import numpy as np
import pytest

from reckeeper import catalogue, clock, policy, storage
from reckeeper.catalogue import Catalogue, Change
from reckeeper.matrix import IdIndex
from reckeeper.policy import PolicyWatch
from reckeeper.serving import FinishedList, FinishedLists, ListState, PopularItems
from reckeeper.storage import Item

NOON = clock.microseconds(datetime.datetime(2026, 3, 14, 12, tzinfo=datetime.UTC))
NOBODY = IdIndex([]), np.empty(0)


class World:
    """The popular items of a database, at a time that a test sets."""

    def __init__(self, database, settings):
        self.database, self.settings = database, settings
        self.policy = PolicyWatch(database, settings)
        self.policy.refresh()
        self.catalogue = Catalogue(database, every_seconds=60)
        self.popular = PopularItems(database, self.policy, self.catalogue, every_seconds=60)
        self.board = self.popular.board(*NOBODY, is_whole=False)

    def recommend_by(self, *, timezone="UTC", left_out_users=(), **fields):
        content = {"timezone": timezone, "left_out_users": list(left_out_users)}
        content["recommendations"] = fields
        policy.store(self.database, self.settings, content, actor="test")

    def ranking(self, board=None, *, moment=NOON):
        self.policy.refresh()
        self.catalogue.refresh()
        self.popular.refresh(moment=moment)
        return (board or self.board).hold(self.popular._state)

    def best(self, n=9, *, user_id="u", allowed=None, seen=(), board=None, moment=NOON):
        ranking = self.ranking(board, moment=moment)
        listable = None
        if allowed is not None:
            listable = np.array([item_id in allowed for item_id in ranking.ids])
        found = ranking.best(n, user_id=user_id, listable=listable, seen=seen)
        return [ranking.ids[index] for index in found.tolist()]


@pytest.fixture
def world(database, settings):
    return World(database, settings)


def clicks(item_id, n, *, days_ago=0.0, by="u"):
    at = NOON - round(days_ago * clock.DAY)
    return [(f"{by}{number}", item_id, "click", 1.0, at) for number in range(n)]


def test_what_was_liked_lately_is_popular(world, add):
    add(*clicks("classic", 10, days_ago=120), *clicks("recent", 4, days_ago=30), *clicks("now", 1))
    assert world.best() == ["recent", "now", "classic"]
    assert world.ranking().scores.tolist() == [0.625, 1.0, 2.0]
    world.recommend_by(popularity_half_life_days=None)
    assert world.best() == ["classic", "recent", "now"]
    world.recommend_by(popularity_half_life_days=1e-9)
    assert world.best() == ["now", "classic", "recent"]
    world.recommend_by(popularity_half_life_days=120)
    assert world.best(2, seen=["classic"]) == ["recent", "now"]
    assert world.best(2, allowed={"now", "classic"}) == ["classic", "now"]


def test_what_was_taken_away_is_popular_no_longer_however_lately_it_was_counted(
    world, database, add, monkeypatch
):
    add(*clicks("gone", 2), *clicks("stays", 1))
    assert world.best() == ["gone", "stays"]
    monkeypatch.setattr(world.popular, "_next_at", float("inf"))
    add(*clicks("late", 3))
    assert world.best() == ["gone", "stays"], "it is not yet time"
    with database.write() as connection:
        connection.exec_driver_sql("DELETE FROM user_interactions WHERE item_id = 'gone'")
        storage.installation.raise_generation(connection)
    assert world.best() == ["late", "stays"]


def test_users_that_training_leaves_out_make_nothing_popular(world, add):
    add(*clicks("spam", 5, by="bot-"), *clicks("good", 2), *clicks("fair", 1))
    assert world.best() == ["spam", "good", "fair"]
    world.recommend_by(left_out_users=["bot-*", "u1"])
    assert world.best() == ["fair", "good"]
    assert world.ranking().scores.tolist() == [1.0, 1.0]


def test_behind_what_was_liked_lately_comes_what_the_model_has(world, add):
    own = IdIndex(["a", "b", "c", "d"])
    board = world.popular.board(own, np.array([5.0, 0.0, 9.0, 1.0]), is_whole=False)
    assert world.best(board=board) == ["c", "a", "d", "b"]
    assert world.ranking(board).scores.tolist() == [5.0, 0.0, 9.0, 1.0]
    add(*clicks("d", 3), *clicks("later", 2), *clicks("b", 1, days_ago=30))
    assert world.best(board=board) == ["d", "later", "b", "c", "a"]
    scores = world.ranking(board).scores
    assert scores.tolist() == pytest.approx([0.25, 0.5, 0.45, 3.0, 2.0])
    whole = world.popular.board(own, np.array([5.0, 0.0, 9.0, 1.0]), is_whole=True)
    assert world.best(board=whole) == ["c", "a", "d", "b"]


def test_new_items_get_their_share_of_the_places(world, database, add):
    for n in range(1, 9):
        add(*clicks(f"old{n}", 10 - n))
    changes = [Change(f"new{n}", {"available_from": NOON - n * clock.DAY}) for n in range(1, 5)]
    changes.append(Change("aged", {"available_from": NOON - 40 * clock.DAY}))
    catalogue.upsert(database, changes, actor="test")
    old = [f"old{n}" for n in range(1, 9)]
    assert world.best(20) == old
    world.recommend_by(new_items_share=0.25)
    lists = [world.best(20, user_id=f"u{n}") for n in range(40)]
    for listed in lists:
        assert [item for item in listed if item in old] == old
        assert [place for place, item in enumerate(listed) if item not in old] == [3, 7, 10, 11]
        assert sorted(listed) == sorted({*old, "new1", "new2", "new3", "new4"})
    firsts = collections.Counter(listed[3] for listed in lists)
    assert set(firsts) == {"new1", "new2", "new3", "new4"}, "each has its turn"
    assert lists[0] == world.best(20, user_id="u0")
    assert lists[0][:8] == world.best(8, user_id="u0"), "pages fit together"
    # No rule gives way to the share.
    seen = lists[0][3]
    assert seen not in world.best(20, user_id="u0", seen=[seen])
    assert world.best(20, allowed={"old3", "old5"}) == ["old3", "old5"]
    assert world.best(2, allowed={"new1", "old5"}) == ["old5", "new1"]
    world.recommend_by(new_items_share=1.0, new_items_days=2)
    assert set(world.best(2)) == {"new1", "new2"}
    assert world.best(20)[2:] == old
    # What is new may be popular too: then it has one place.
    add(*clicks("new2", 30))
    world.recommend_by(new_items_share=0.5, new_items_days=2)
    assert world.best(3)[0] == "new2"
    assert sorted(world.best(20)) == sorted([*old, "new1", "new2"])


def test_an_item_is_new_for_whole_days_of_the_time_zone(world, database, add):
    add(*clicks("old", 1))
    catalogue.put(database, "i", {"available_from": NOON}, actor="test")
    world.recommend_by(new_items_share=0.5, new_items_days=1, timezone="Asia/Tokyo")
    in_tokyo = NOON - 21 * 3600 * clock.SECOND  # midnight there, in UTC
    assert "i" in world.best(moment=in_tokyo + 2 * clock.DAY - 1)
    assert "i" not in world.best(moment=in_tokyo + 2 * clock.DAY)


def test_the_daily_variation_is_a_draw_in_proportion(world, add):
    add(*clicks("a", 6), *clicks("b", 3), *clicks("c", 1))
    world.recommend_by(daily_variation=1.0)
    lists = listed_to(3000, world.ranking())
    assert np.bincount(lists[:, 0]) / 3000 == pytest.approx([0.6, 0.3, 0.1], abs=0.04)
    seconds = lists[lists[:, 0] == 0, 1]
    assert np.mean(seconds == 1) == pytest.approx(0.75, abs=0.04)
    world.recommend_by(daily_variation=0.25)
    firsts = listed_to(3000, world.ranking())[:, 0]
    assert np.mean(firsts == 0) == pytest.approx(6**4 / (6**4 + 3**4 + 1), abs=0.02)


def listed_to(n_users, ranking):
    """Return the lists of so many users."""
    users = [f"user {number}" for number in range(n_users)]
    return np.array([ranking.best(3, user_id=user, listable=None, seen=()) for user in users])


def test_the_daily_variation_is_the_same_all_day_in_every_process(world, database, settings, add):
    add(*[click for n in range(60) for click in clicks(f"i{n:02}", 3)])
    assert world.best(60) == world.best(60, user_id="another") == sorted(world.best(60))
    world.recommend_by(daily_variation=0.5)
    today = world.best(60)
    assert sorted(today) == sorted(world.best(60, user_id="another"))
    assert today != world.best(60, user_id="another")
    assert world.best(60, user_id=None) == world.best(60, user_id=None) != today
    assert world.best(7) == today[:7]
    morning, evening = NOON - 12 * 3600 * clock.SECOND, NOON + 12 * 3600 * clock.SECOND
    assert world.best(60, moment=morning) == world.best(60, moment=evening - 1) == today
    assert world.best(60, moment=evening) != today
    # Whatever comes in, the order of the others stays.
    add(*clicks("another", 9))
    other = World(database, settings)
    assert [item for item in other.best(61) if item != "another"] == today


def test_a_list_of_popular_items_is_kept_until_the_day_or_the_policy_changes(world, database, add):
    """As the server keeps them: found or made, each list is what is true at that moment."""
    add(*[click for n in range(20) for click in clicks(f"i{n:02}", n)])
    kept, n_found = FinishedLists(), 0

    def listed(moment):
        nonlocal n_found
        ranking = world.ranking(moment=moment)
        state = ListState("own", ranking.number)
        found = kept.get("u", state)
        if found is None:
            best = world.best(moment=moment)
            kept.put("u", state, FinishedList(repr(best).encode(), "popular"))
            return repr(best)
        n_found += 1
        return found.body.decode()

    random = np.random.default_rng(3)
    moment, lists = NOON, []
    for step in range(120):
        match random.integers(6):
            case 0:
                moment += int(random.integers(2 * clock.DAY))
            case 1:
                share, variation = random.choice([0.0, 0.3], size=2).tolist()
                world.recommend_by(new_items_share=share, daily_variation=variation)
            case 2 if step % 3 == 0:
                add(*clicks(f"i{random.integers(20):02}", 1, by=f"more{step}"))
            case 3 if step % 3 == 0:
                with database.write() as connection:
                    storage.items.put(connection, [Item(f"new{step}", None, {})])
        fresh = World(database, world.settings)
        lists.append(listed(moment))
        assert lists[-1] == repr(fresh.best(moment=moment))
    assert n_found > 40
    assert len(set(lists)) > 20


def test_other_lists_are_kept_whatever_is_popular():
    kept = FinishedLists()
    kept.put("u", ListState("own", 1), FinishedList(b"", "model"))
    assert kept.get("u", ListState("own", 2)) is not None
    kept.put("v", ListState("own", 1), FinishedList(b"", "popular"))
    assert kept.get("v", ListState("own", 1)) is not None
    assert kept.get("v", ListState("own", 2)) is None
