"""The catalogue: changes, their revision and trail, and what a process has of it in memory."""

import random
import threading

import numpy as np
import pytest

from reckeeper import audit, catalogue, clock, storage
from reckeeper.catalogue import Catalogue, Change, memory
from reckeeper.errors import DataError, NotFoundError
from reckeeper.storage import Item


@pytest.fixture
def kept(database):
    return Catalogue(database, every_seconds=60)


def revision(database):
    with database.read() as connection:
        return storage.items.revision_of(connection)


def stored(database, *item_ids):
    with database.read() as connection:
        return storage.items.get_many(connection, item_ids)


def trail(database):
    return [(entry.action, entry.subject) for entry in audit.entries(database, limit=100)][::-1]


def test_put_says_all_of_an_item_and_patch_some(database):
    said = {"title": "Lamp", "categories": ("light",), "attributes": {"price": 5, "size": {"x": 1}}}
    catalogue.put(database, "i", said, actor="alice")
    changed = {"available": False, "attributes": {"price": None, "size": {"y": 2}, "new": [1]}}
    after = catalogue.patch(database, "i", changed, actor="alice")
    expected = Item("i", "Lamp", {"size": {"x": 1, "y": 2}, "new": [1]}, ("light",), False)
    assert stored(database, "i") == {"i": after} == {"i": expected}
    unsaid = catalogue.patch(database, "i", {"attributes": None, "title": None}, actor="alice")
    assert unsaid == Item("i", None, {}, ("light",), False)
    assert catalogue.put(database, "i", {"title": "New"}, actor="alice") == Item("i", "New", {})
    with pytest.raises(DataError, match=r"available_until .* is not after available_from"):
        catalogue.patch(database, "i", {"available_from": 5, "available_until": 5}, actor="alice")
    kinds = ["put_item", "patch_item", "patch_item", "put_item"]
    assert trail(database) == [(kind, "item i") for kind in kinds]
    assert audit.entries(database, limit=1)[0].details == {
        "before": {"title": None, "categories": ["light"], "available": False},
        "after": {"title": "New", "categories": [], "available": True},
    }


def test_what_changes_nothing_is_no_change(database):
    catalogue.put(database, "i", {"title": "Lamp"}, actor="alice")
    before = revision(database), trail(database)
    catalogue.put(database, "i", {"title": "Lamp"}, actor="alice")
    catalogue.patch(database, "i", {"available": True}, actor="alice")
    done = catalogue.upsert(database, [Change("i", {"title": "Lamp"})], actor="alice")
    assert done == (0, 0, 1)
    assert (revision(database), trail(database)) == before


def test_an_upsert_keeps_what_it_does_not_name(database):
    catalogue.put(database, "a", {"title": "A", "attributes": {"old": 1}}, actor="alice")
    catalogue.patch(database, "a", {"available": False}, actor="alice")
    changes = [
        Change("a", {"attributes": {"new": 2}}),
        Change("b", {"title": "B"}),
        Change("b", {"categories": ("x",)}),
    ]
    assert catalogue.upsert(database, changes, actor="feed") == (1, 1, 0)
    assert stored(database, "a", "b") == {
        "a": Item("a", "A", {"new": 2}, (), False),
        "b": Item("b", "B", {}, ("x",)),
    }
    assert trail(database)[2:] == [("put_items", "catalogue")]
    bad = [Change("c", {}), Change("a", {"available_from": 9, "available_until": 3})]
    with pytest.raises(DataError, match="Item 1: available_until"):
        catalogue.upsert(database, bad, actor="feed")
    assert not stored(database, "c")


def test_an_item_is_known_to_the_catalogue_or_to_an_interaction(database, add):
    add(("u", "touched"))
    with pytest.raises(NotFoundError, match="Nobody knows an item 'x'"):
        catalogue.patch(database, "x", {"available": False}, actor="alice")
    with database.read() as connection:
        assert catalogue.find(connection, "touched") == (Item("touched", None, {}), False)
    catalogue.patch(database, "touched", {"available": False}, actor="alice")
    with database.read() as connection:
        assert catalogue.find(connection, "touched").in_catalogue
    catalogue.delete(database, "touched", actor="alice")
    with database.read() as connection:
        assert catalogue.find(connection, "touched") == (Item("touched", None, {}), False)
    with pytest.raises(NotFoundError, match="The catalogue has no item"):
        catalogue.delete(database, "touched", actor="alice")
    assert trail(database)[-1] == ("delete_item", "item touched")


def test_a_page_is_searched_and_filtered(database):
    rows = [
        Item("b%1", "Ärmel_LOSE", {}),
        Item("A2", "a title", {}, available=False),
        Item("c", None, {}, available_from=100),
        Item("d", "Straße", {}, available_until=100),
        Item("e🎬 f", "100%", {}, available_from=50, available_until=150),
    ]
    with database.write() as connection:
        storage.items.put(connection, rows)

    def found(**asked):
        with database.read() as connection:
            page = storage.items.page(connection, **{"limit": 9, "moment": 100, **asked})
        return [item.item_id for item in page]

    assert found() == ["A2", "b%1", "c", "d", "e🎬 f"]
    assert found(limit=2) == ["A2", "b%1"]
    assert found(after="b%1", limit=2) == ["c", "d"]
    assert found(text="ärmel_") == ["b%1"]
    assert found(text="STRASSE") == ["d"]
    assert found(text="%") == ["b%1", "e🎬 f"]
    assert found(text="a2") == ["A2"]
    assert found(available=True) == ["b%1", "c", "e🎬 f"]
    assert found(available=False) == ["A2", "d"]
    assert found(available=True, moment=99) == ["b%1", "d", "e🎬 f"]


def drawn(random, number):
    begin, end = sorted(random.sample(range(1, 40), 2))
    return Item(
        f"i{number}",
        random.choice([None, f"Title {number} ü"]),
        random.choice([{}, {"n": number}, {"n": [1, number], "lit": True}, {"n": "1", "lit": 1}]),
        tuple(random.sample("abcd", random.randrange(3))),
        random.random() < 0.7,
        random.choice([None, begin]),
        random.choice([None, end]),
    )


def test_memory_is_what_a_plain_reading_says_after_any_history(database, kept):
    """Availability, descriptions and categories, by the catalogue and in a model's order."""
    draw = random.Random(7)
    model = [f"i{number}" for number in draw.sample(range(60), 40)] + ["unknown"]
    shelf = kept.shelf(model, {item_id: index for index, item_id in enumerate(model)}.get)
    truth = {}
    for _round in range(25):
        with database.write() as connection:
            for _change in range(draw.randrange(4)):
                numbers = draw.sample(range(60), draw.randrange(1, 12))
                if draw.random() < 0.3:
                    gone = [f"i{number}" for number in numbers]
                    there = sum(storage.items.delete(connection, each) for each in gone)
                    assert there == sum(truth.pop(each, None) is not None for each in gone)
                else:
                    items = [drawn(draw, number) for number in numbers]
                    storage.items.put(connection, items)
                    truth |= {item.item_id: item for item in items}
        kept.refresh()
        assert kept.revision == revision(database)
        for moment in (0, draw.randrange(42), draw.randrange(42)):
            standing = shelf.at(moment)
            is_available = np.array(
                [each not in truth or truth[each].is_available(moment) for each in model]
            )
            if standing.is_available is None:
                assert is_available.all()
            else:
                np.testing.assert_array_equal(standing.is_available, is_available)
            assert [kept.is_available(each, moment) for each in model] == is_available.tolist()
            # It holds until just before the first moment at which any item differs.
            is_now = {each: truth[each].is_available(moment) for each in truth}
            changes = [
                later
                for later in range(moment + 1, 43)
                if any(truth[each].is_available(later) != is_now[each] for each in truth)
            ]
            assert kept.next_change(moment) == (changes[0] if changes else None)
            assert standing.since <= moment < standing.until
        assert kept.describe(model) == [
            (item.title, item.attributes, item.categories)
            for item in (truth.get(each, Item(each, None, {})) for each in model)
        ]
        wanted = draw.sample("abcdx", draw.randrange(1, 4))
        inside = {each for each, item in truth.items() if set(item.categories) & set(wanted)}
        assert set(kept.in_categories(wanted)) == inside
        assert shelf.in_categories(wanted).tolist() == [each in inside for each in model]
        shares = {
            each: len(mine & set(wanted)) / len(mine | set(wanted)) + ("a" in mine) / len(mine)
            for each, item in truth.items()
            if (mine := set(item.categories)) & {*wanted, "a"}
        }
        assert dict(kept.akin([wanted, ["a"], []])) == pytest.approx(shares)
        assert_filters(shelf, model, truth, draw)


def assert_filters(shelf, model, truth, draw):
    """Compare what is asked of categories and attributes with a plain reading of each item."""
    moment, low = draw.randrange(42), draw.randrange(60)
    known = {category for item in truth.values() for category in item.categories}
    categories = frozenset(draw.sample(sorted(known), draw.randrange(min(3, len(known) + 1))))
    where = catalogue.conditions_of(
        draw.choice([{}, {"n": {"min": low, "max": low + 9}}, {"n": [low, low + 1, 1]}])
        | draw.choice([{}, {"lit": True}, {"lit": 1}, {"nowhere": 1}])
    )
    inside = {
        each
        for each, item in truth.items()
        if item.is_available(moment)
        and (not categories or categories & set(item.categories))
        and all(each.is_met_by(item.attributes.get(each.attribute)) for each in where)
    }
    if not (categories or where):
        inside |= {each for each in model if each not in truth}
    for _again in range(2):
        found = shelf.listable(categories, where, moment=moment)
        found = np.ones(len(model), dtype=bool) if found is None else found
        assert found.tolist() == [each in inside for each in model]
    with pytest.raises(NotFoundError, match="is in the category 'nothing'"):
        shelf.listable(frozenset({"nothing"}), where, moment=moment)


@pytest.mark.parametrize("kept_attributes", [32, 0])
def test_attributes_that_are_asked_for_first_hold_nobody_up_and_miss_no_change(
    database, kept, monkeypatch, kept_attributes
):
    monkeypatch.setattr(memory, "_ATTRIBUTES_KEPT", kept_attributes)
    model = [f"i{number:04}" for number in range(2_000)]
    truth = {each: Item(each, None, {"n": place % 7}) for place, each in enumerate(model[:1500])}
    with database.write() as connection:
        storage.items.put(connection, truth.values())
    kept.refresh()
    shelf = kept.shelf(model, {item_id: index for index, item_id in enumerate(model)}.get)
    changed = [Item(model[place], None, {"n": 3 + place % 2}) for place in (0, 5, 999, 1600, 1999)]
    read, n_read = memory.from_json, 0

    def change():
        with database.write() as connection:
            storage.items.delete(connection, model[10])
            storage.items.put(connection, changed)
        kept.refresh()
        shelf.listable(frozenset(), (), moment=1)

    def reading(text):
        nonlocal n_read
        n_read += 1
        if n_read == 3:
            other = threading.Thread(target=change)
            other.start()
            other.join(20)
            assert not other.is_alive()
        return read(text)

    monkeypatch.setattr(memory, "from_json", reading)
    where = catalogue.conditions_of({"n": 3, "m": [1, 2]})
    assert not shelf.listable(frozenset(), where, moment=1).any()
    truth |= {item.item_id: item for item in changed}
    del truth[model[10]]
    expected = [each in truth and truth[each].attributes["n"] == 3 for each in model]
    for _again in range(2):
        found = shelf.listable(frozenset(), catalogue.conditions_of({"n": 3}), moment=1)
        assert found.tolist() == expected
    assert n_read > 3


def test_memory_reads_only_what_has_changed_and_starts_again_on_an_older_database(
    database, kept, monkeypatch
):
    with database.write() as connection:
        storage.items.put(connection, [Item(f"i{number}", "T", {}) for number in range(50)])
    kept.refresh()
    batches = []
    reading = storage.items.changed_since

    def noted(*arguments):
        for batch in reading(*arguments):
            batches.append([row.item_id for row in batch])
            yield batch

    monkeypatch.setattr(storage.items, "changed_since", noted)
    kept.refresh()
    assert batches == []
    with database.write() as connection:
        storage.items.put(connection, [Item("i7", "New", {})])
    kept.refresh()
    assert batches == [["i7"]]
    shelf = kept.shelf(["i7", "i8"], ["i7", "i8"].index)
    assert shelf.at(1).is_available is None
    with database.write() as connection:  # as a copy from before would have it
        connection.exec_driver_sql("DELETE FROM items")
        connection.exec_driver_sql("UPDATE catalogue SET revision = 0")
        storage.items.put(connection, [Item("i8", "Restored", {}, available=False)])
    kept.refresh()
    assert [found.title for found in kept.describe(["i7", "i8"])] == [None, "Restored"]
    assert shelf.at(1).is_available.tolist() == [True, False]


def test_writers_at_once_each_raise_the_revision_and_a_follower_misses_none(database, kept):
    n_writers, n_changes = 2, 12
    failures = []

    def write(name):
        try:
            for number in range(n_changes):
                change = Change(f"{name}-{number}", {"title": f"{name} {number}"})
                catalogue.upsert(database, [change], actor=name)
        except Exception as exc:
            failures.append(exc)
            raise

    threads = [threading.Thread(target=write, args=(f"w{n}",)) for n in range(n_writers)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        kept.refresh()
    for thread in threads:
        thread.join()
    assert not failures
    kept.refresh()
    assert kept.revision == revision(database) == n_writers * n_changes
    names = [f"w{n}-{number}" for n in range(n_writers) for number in range(n_changes)]
    assert [found.title for found in kept.describe(names)] == [
        name.replace("-", " ") for name in names
    ]


def test_a_process_follows_what_another_changes(database, wait_until):
    other = Catalogue(database, every_seconds=0.01)
    other.start()
    try:
        catalogue.put(database, "i", {"available": False}, actor="alice")
        wait_until(lambda: not other.is_available("i", 1))
    finally:
        other.stop()
    assert other.problem is None


def test_an_item_is_new_from_when_it_comes_or_is_available(database, kept):
    catalogue.upsert(
        database,
        [
            Change("long", {"available_from": 5}),
            Change("soon", {"available_from": 4 * 10**15}),
            Change("withdrawn", {"available": False}),
            Change("gone", {}),
            Change("added", {}),
        ],
        actor="alice",
    )
    start = clock.now()
    kept.refresh()
    assert kept.new_since(start) == ["soon"]
    hour_ago = start - 3600 * clock.SECOND
    assert kept.new_since(hour_ago) == ["added", "gone", "soon", "withdrawn"]
    catalogue.put(database, "added", {"title": "Changed"}, actor="alice")
    catalogue.delete(database, "gone", actor="alice")
    kept.refresh()
    assert kept.new_since(start) == ["soon"]
    assert kept.new_since(hour_ago) == ["added", "soon", "withdrawn"]
    assert kept.new_since(4) == ["added", "long", "soon", "withdrawn"]
