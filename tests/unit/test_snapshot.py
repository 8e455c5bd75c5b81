"""The snapshot: the interactions of the last training, by user, as the table has them."""

import random

import numpy as np
import pytest

from reckeeper import arrays, matrix, snapshot, storage
from reckeeper.policy import PolicyWatch
from reckeeper.serving import Newer, Rules, Serving

ADD, REMOVE, DISMISS = "watchlist_add", "watchlist_remove", "dismiss"


@pytest.fixture
def installation_id(database):
    with database.read() as connection:
        return storage.installation.id_of(connection)


@pytest.fixture
def opened(settings, installation_id):
    def again(installation_id=installation_id):
        return snapshot.opened(settings.model_dir, installation_id=installation_id)

    return again


@pytest.fixture
def written(database, settings, installation_id):
    """Return a function that writes the snapshot of the table as it is."""

    def write(made_at=7, generation=None):
        with database.read() as connection:
            if generation is None:
                generation = storage.installation.generation(connection)
            origin = snapshot.Origin(
                installation_id,
                generation,
                storage.interactions.last_id(connection),
                made_at,
            )
            recorder = snapshot.Recorder(
                storage.interactions.read_batches(connection, batch_rows=3)
            )
            log = matrix.read_log(recorder, type_weights={})
        return origin, recorder.write(settings.model_dir, log, origin)

    return write


def as_told(found, rows):
    """Return rows of a snapshot as the table has them."""
    return [
        (found.items[item], found.types[kind], weight, time)
        for item, kind, weight, time in zip(
            rows.item_index.tolist(),
            rows.type_index.tolist(),
            rows.weight.tolist(),
            rows.occurred_at.tolist(),
            strict=True,
        )
    ]


@pytest.mark.parametrize("seed", range(3))
def test_each_user_has_what_the_table_has_in_its_order(add, database, written, opened, seed):
    drawn = random.Random(seed)
    users, items = ["u", "ü/🎬", "a" * 256, "0", "u "], ["i", "🎬", "", "zz", "ж"]
    add(*(
        (drawn.choice(users), drawn.choice(items), drawn.choice(["click", ADD, "x", DISMISS]),
         drawn.choice([0.0, 1.0, 0.1]), drawn.randrange(9))
        for _ in range(40)
    ))  # fmt: skip
    origin, is_written = written()
    assert is_written
    found = opened()
    assert found.origin == origin
    assert list(found.users) == sorted(found.users)
    with database.read() as connection:
        assert set(found.users) == set(storage.interactions.users(connection))
        for user in [*users, "nobody", "zzz", ""]:
            rows = storage.interactions.of_user(connection, user).to_pylist()
            told = [tuple(row.values())[1:] for row in rows]
            assert as_told(found, found.of_user(user)) == told


def test_ids_are_found_one_by_one_and_many_together(add, written, opened):
    add(*[("u", f"{'é' if n % 2 else 'e'}{n:03}") for n in range(250)])
    written()
    items = opened().items
    asked = [items[0], "gone", items[249], "", items[0], "\U0010ffff"]
    assert [items.find(each) for each in asked] == [0, None, 249, None, 0, None]
    for few_or_many in (asked[:2], asked):
        wanted = [-1 if (place := items.find(each)) is None else place for each in few_or_many]
        assert items.find_each(few_or_many).tolist() == wanted
    assert items.find_each([]).dtype == np.int64


def test_one_that_is_missing_damaged_or_of_elsewhere_is_as_good_as_none(
    add, settings, written, opened
):
    assert opened() is None
    add(("u", "i"), ("u", "j"), ("v", "i"))
    written()
    path = settings.model_dir / snapshot.FILE
    whole = path.read_bytes()
    assert opened("another") is None
    for content in (b"", b"garbage" * 99, whole[:-3], whole[: len(whole) // 2]):
        path.write_bytes(content)
        assert opened() is None
    path.write_bytes(whole)
    assert opened() is not None


@pytest.mark.parametrize(
    ("name", "value"),
    [("item", 2), ("item", -1), ("type", 1), ("bounds", 9), ("users.bounds", -1)],
)
def test_one_whose_numbers_point_nowhere_is_as_good_as_none(
    add, settings, written, opened, name, value
):
    add(("u", "i"), ("u", "j"), ("v", "i"))
    written()
    path = settings.model_dir / snapshot.FILE
    header, content = arrays.read(path)
    content[name][1] = value
    arrays.write(path, content, header=header)
    assert opened() is None


def test_more_types_than_it_can_tell_apart_are_not_kept(add, settings, written):
    add(*(("u", "i", f"type{n}") for n in range(257)))
    assert written()[1] is False
    assert not (settings.model_dir / snapshot.FILE).exists()


def test_a_training_writes_it_before_it_fits(taste, train, opened, database):
    train()
    first = opened()
    with database.read() as connection:
        assert first.origin.watermark == storage.interactions.last_id(connection)
        assert (
            len(first.of_user("u03").weight)
            == storage.interactions.of_user(connection, "u03").num_rows
        )


@pytest.fixture
def followed(taste, train, registry, database, settings):
    """Return the serving of a trained version, and what knows who has something newer."""
    registry.switch.activate(registry.versions.load(train()), actor="test")
    newer = Newer(database, every_seconds=60)
    policy = PolicyWatch(database, settings)
    policy.refresh()
    serving = Serving(database, registry, policy, every_seconds=60, newer=newer)
    serving.refresh()
    return serving, newer


def lists(serving, users=("u03", "u07", "nobody")):
    found = {user: serving.recommend(user, Rules(n=9)) for user in users}
    return {user: (one.strategy, one.items) for user, one in found.items()}


def test_known_users_are_answered_without_the_database(followed, database, monkeypatch):
    serving, _ = followed
    known = ("u03", "u07")
    before = lists(serving, known)
    assert [strategy for strategy, _ in before.values()] == ["model", "model"]

    def gone(*arguments):
        raise AssertionError("the database was asked")

    monkeypatch.setattr(database, "read", gone)
    assert lists(serving, known) == before
    assert serving.recommend_at_once("u03", Rules(n=9)).items == before["u03"][1]


def test_lists_are_the_same_with_and_without_it(followed, registry, database, settings, add):
    serving, newer = followed
    policy = PolicyWatch(database, settings)
    policy.refresh()
    plain = Serving(database, registry, policy, every_seconds=60)
    for later in ((), (("u03", "i8"), ("new", "i1"), ("u07", "i1", DISMISS))):
        add(*later)
        newer.refresh()
        plain.refresh()
        users = ("u03", "u07", "u05", "new", "nobody")
        assert lists(serving, users) == lists(plain, users)
    (settings.model_dir / snapshot.FILE).unlink()
    serving.refresh()
    assert lists(serving) == lists(plain)


def test_what_was_taken_away_is_in_no_history_and_no_file(followed, database, settings):
    serving, newer = followed
    serving.refresh()
    assert (settings.model_dir / snapshot.FILE).exists()
    with database.write() as connection:
        connection.exec_driver_sql("DELETE FROM user_interactions WHERE user_id = 'u03'")
        storage.installation.raise_generation(connection)
    newer.refresh()
    assert lists(serving)["u03"][0] == "popular"
    serving.refresh()
    assert not (settings.model_dir / snapshot.FILE).exists()
    assert lists(serving)["u03"][0] == "popular"
    assert lists(serving)["u07"][0] == "model"


def test_what_a_training_had_read_before_it_was_taken_away_goes_too(
    followed, database, settings, written
):
    serving, newer = followed
    origin, _ = written()
    with database.write() as connection:
        connection.exec_driver_sql("DELETE FROM user_interactions WHERE user_id = 'u03'")
        storage.installation.raise_generation(connection)
    newer.refresh()
    serving.refresh()
    written(generation=origin.generation)  # by a training that began before
    assert (settings.model_dir / snapshot.FILE).exists()
    serving.refresh()
    assert not (settings.model_dir / snapshot.FILE).exists()


def test_another_snapshot_is_taken_up_without_another_version(followed, add, train, registry):
    serving, newer = followed
    add(("u03", "i8"))
    newer.refresh()
    before = lists(serving)
    train()  # and not activated
    serving.refresh()
    assert serving.version == 1
    assert lists(serving) == before
    assert before["u03"][0] == "fold_in"
    assert serving.recommend_at_once("u03", Rules(n=9)) is not None, "it is in the snapshot now"
