"""The ordered part of `spectral`: counted as by hand, and nothing where there is no order."""

import dataclasses

import numpy as np
import pytest
from scipy import sparse

from reckeeper.errors import DataError
from reckeeper.matrix import Histories, IdIndex, InteractionMatrix
from reckeeper.recipes.spectral import Spectral, order
from reckeeper.recipes.spectral.factors import Weighted
from reckeeper.recipes.spectral.parts import Ordered, Plain
from reckeeper.recipes.spectral.settings import SpectralSettings

DAY = 86_400_000_000


def events(n_users=80, n_items=40, *, seed=0, per_user=12, n_times=9):
    """Return interactions with ties, some pairs without taste; user 3 and item 5 have none."""
    random = np.random.default_rng(seed)
    dense = np.zeros((n_users, n_items))
    for user in range(n_users):
        # Items come one after the other more often than not.
        start = random.integers(n_items)
        items = (start + np.cumsum(random.integers(1, 4, size=per_user))) % n_items
        dense[user, items] = random.choice([0.0, 1.0, 2.0, 5.0], size=per_user)
        dense[user, items[0]] = 1.0
    dense[3] = 0.0
    dense[:, 5] = 0.0
    stored = sparse.csr_array(np.where(dense > 0, dense, np.nan))
    stored.data = np.nan_to_num(stored.data)
    weights = sparse.csr_array(dense)
    return interactions(weights, random.integers(n_times, size=weights.nnz) * DAY)


def chains(n_users=200, n_items=30, *, seed=0):
    """Return users who take ten items in a row, one a day, some of them left out."""
    random = np.random.default_rng(seed)
    rows, columns, times = [], [], []
    for user in range(n_users):
        start = random.integers(n_items)
        for step in np.flatnonzero(random.random(10) < 0.8):
            rows.append(user)
            columns.append((start + step) % n_items)
            times.append(step * DAY)
    order_ = np.lexsort((columns, rows))
    indptr = np.searchsorted(np.array(rows)[order_], np.arange(n_users + 1))
    weights = sparse.csr_array(
        (np.ones(len(rows)), np.array(columns)[order_], indptr), shape=(n_users, n_items)
    )
    return interactions(weights, np.array(times)[order_])


def interactions(weights, times):
    ids = [IdIndex([f"{n:05}" for n in range(length)]) for length in weights.shape]
    return InteractionMatrix(*ids, weights, weights.nnz, times)


def with_times(given, times):
    return dataclasses.replace(given, latest_at=times)


def fit(given, **settings):
    return Spectral.fit(given, settings={"order": 0.5, **settings})


def counted(given):
    """Count by a double loop what came after what."""
    weights = given.weights
    total = np.zeros((weights.shape[1], weights.shape[1]))
    for user in range(weights.shape[0]):
        entries = slice(weights.indptr[user], weights.indptr[user + 1])
        rows = [
            (time, item)
            for time, item, weight in zip(
                given.latest_at[entries], weights.indices[entries], weights.data[entries],
                strict=True,
            )
            if weight > 0
        ]  # fmt: skip
        rows.sort()
        steps = sorted({time for time, _ in rows})
        for place, (time, item) in enumerate(rows):
            for later_time, later in rows[place + 1 : place + 21]:
                between = steps.index(later_time) - steps.index(time)
                if between > 0:
                    total[item, later] += between**-0.25
    return total


def entering_sums(given):
    entries = (given.weights.toarray() > 0).astype(float)
    return np.where(entries.sum(axis=0) > 0, entries.sum(axis=0), 1.0)


def whitened(given, *, popularity, user_power=0.25, item_power=0.15):
    """Return B by its formula, in double precision."""
    entries = (given.weights.toarray() > 0).astype(float)
    of_users = np.where(entries.sum(axis=1) > 0, entries.sum(axis=1), 1.0)
    of_items = entering_sums(given)
    matrix = of_users[:, None] ** -user_power * entries * of_items**-item_power
    matrix /= np.linalg.norm(matrix, 2)
    _, values, vectors = np.linalg.svd(matrix, full_matrices=False)
    diagonal = np.diag(matrix.T @ matrix)
    strength = 100 * diagonal[diagonal > 0].mean()
    squares, vectors = values[:32] ** 2, vectors[:32]
    left = np.eye(len(of_items)) - (vectors.T * (squares / (squares + strength))) @ vectors
    made = of_items[:, None] ** -0.15 * left * of_items**-0.15
    made = made @ counted(given) * of_items**-popularity
    np.fill_diagonal(made, 0.0)
    return made


def close(found, expected, *, tolerance=1e-4):
    scale = np.abs(expected).max(axis=1, keepdims=True)
    assert (np.abs(found - expected) <= tolerance * scale + 1e-12).all()


# What came after what


@pytest.mark.parametrize("per_user", [1, 5, 35])
@pytest.mark.parametrize("n_times", [1, 2, 9, 1000])
def test_n_is_counted_as_by_a_double_loop(per_user, n_times):
    given = events(per_user=per_user, n_times=n_times)
    found = order.following(given.histories).toarray()
    np.testing.assert_allclose(found, counted(given), rtol=1e-5, atol=1e-6)
    assert not found.diagonal().any()
    assert found.any() == (n_times > 1 and per_user > 1)


def test_n_is_the_same_in_blocks_and_on_several_threads(monkeypatch):
    given = events(per_user=20)
    whole = order.following(given.histories, n_threads=1).toarray()
    monkeypatch.setattr(order, "_SOURCES", 16)
    for n_threads in (1, 3):
        found = order.following(given.histories, n_threads=n_threads).toarray()
        np.testing.assert_allclose(found, whole, rtol=1e-6)


def test_reversed_times_turn_what_came_after_into_what_came_before():
    given = chains()
    turned = with_times(given, -given.latest_at)
    np.testing.assert_allclose(
        order.following(turned.histories).toarray(),
        order.following(given.histories).toarray().T,
        rtol=1e-5,
    )


def test_a_row_keeps_its_largest_followers(monkeypatch):
    given = events(per_user=30)
    whole = order.following(given.histories).toarray()
    monkeypatch.setattr(order, "_LEAST_FOLLOWERS", 4)
    monkeypatch.setattr(order, "_CELLS", 1)
    found = order.following(given.histories).toarray()
    for row, kept in zip(whole, found, strict=True):
        best = np.argsort(-row, kind="stable")[:4]
        np.testing.assert_array_equal(kept[best], row[best])
        assert np.count_nonzero(kept) == min(4, np.count_nonzero(row))


def test_ten_thousand_equal_histories_count_ten_thousand_times():
    weights = sparse.csr_array(np.ones((10_000, 3)))
    times = np.tile(np.array([2, 0, 1]) * DAY, 10_000)
    found = order.following(interactions(weights, times).histories).toarray()
    expected = np.zeros((3, 3))
    expected[1, 2] = expected[2, 0] = 10_000
    expected[1, 0] = 10_000 * 2**-0.25
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    model = fit(interactions(weights, times))
    assert np.isfinite(model.item_weights.data).all()
    assert model.order is not None


# The matrix


@pytest.mark.parametrize("popularity", [0.0, 0.2])
def test_the_ordered_part_is_the_formula(popularity):
    given = events(per_user=20)
    weighted = Weighted.of(given.weights, "binary")
    factors = weighted.factorise(user_power=0.25, item_power=0.15, n_components=256)
    follows = order.following(given.histories, scale=weighted.item_sums**-popularity)
    ordered = Ordered.of(follows, weighted, factors)
    expected = whitened(given, popularity=popularity)
    rows = sparse.csr_array(np.eye(40, dtype=np.float32))
    found = ordered.scores(rows)
    close(found, expected)
    everywhere = sparse.csr_array(np.ones((40, 40), dtype=np.float32))
    values = ordered.at(everywhere).reshape(40, 40)
    np.fill_diagonal(values, 0.0)
    close(values, expected)
    close(ordered.times(3.0).scores(rows), 3 * expected)


def test_w_is_the_plain_part_and_what_comes_next_made_as_large():
    given = events(per_user=20)
    settings = {"order": 0.7, "recency": 2.0, "order_popularity": 0.3, "n_neighbours": 40}
    model, plain = fit(given, **settings), fit(given, order=0.0, n_neighbours=40)
    rows = np.zeros(given.weights.shape)
    histories = given.histories
    users, items = given.weights.nonzero()
    rows[given.weights.toarray() > 0] = 1.0
    of_entry = sparse.csr_array(
        (histories.n_later + 1.0, given.weights.indices, given.weights.indptr),
        shape=given.weights.shape,
    ).toarray()
    rows = np.where(rows > 0, 1 / (1 + (of_entry - 1) / 2.0), 0.0)
    assert len(users) == len(items)

    def best(scores):
        return np.sort(scores, axis=1)[:, -20:].mean()

    expected = whitened(given, popularity=0.3)
    kept = rows.any(axis=1)
    dense = plain.item_weights.toarray()
    z = best(rows[kept] @ dense) / best(rows[kept] @ expected)
    close(model.item_weights.toarray(), dense + 0.7 * z * expected)
    close(model.score(given.histories), rows @ model.item_weights.toarray(), tolerance=1e-5)


def test_a_history_scores_by_how_long_ago_and_the_same_in_training_or_after():
    given = chains()
    model = fit(given)
    again = Spectral.from_arrays(model.to_arrays(), settings=model.settings, n_items=30)
    whole = model.score(given.histories)
    for user in range(0, 200, 20):
        row = given.weights[[user]]
        entries = slice(given.weights.indptr[user], given.weights.indptr[user + 1])
        new = Histories.of_times(row, given.latest_at[entries] + 7 * DAY)
        close(model.score(new), whole[[user]], tolerance=1e-5)
        np.testing.assert_array_equal(again.score(new), model.score(new))
    without = model.score(Histories(given.weights))
    assert not np.allclose(whole, without)


def test_the_export_gives_the_scores():
    given = events()
    model = fit(given, weighting="log")
    exported = model.to_export(given)
    assert isinstance(exported["recency_weights"], sparse.csr_matrix)
    weighted = (given.weights / exported["weight_scale"]).log1p()
    predicted = weighted.multiply(exported["recency_weights"]) @ exported["item_weights"]
    close(predicted.toarray(), model.score(given.histories), tolerance=1e-6)


def test_who_follows_a_chain_is_given_what_comes_next():
    model = fit(chains(n_users=600), n_neighbours=5)
    for item in range(30):
        indices, values = model.next(item, n=3)
        assert indices[0] == (item + 1) % 30
        assert (np.diff(values) <= 0).all()
        assert (values > 0).all()
    plain = fit(chains(n_users=600), order=0.0)
    assert not len(plain.next(4, n=3)[0])


def test_similar_items_are_of_the_plain_part():
    given = events(per_user=20)
    model, plain = fit(given, n_neighbours=40), fit(given, order=0.0, n_neighbours=40)
    for item in range(40):
        found, values = model.similar(item, n=10)
        expected, others = plain.similar(item, n=10)
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_allclose(values, others, rtol=1e-3, atol=1e-6)


# Where there is no order


@pytest.mark.parametrize("times", ["missing", "equal", "equal for each user"])
def test_without_order_it_is_the_plain_model_exactly(times):
    given = events()
    users = np.repeat(np.arange(80), np.diff(given.weights.indptr))
    given = with_times(
        given,
        {
            "missing": None,
            "equal": np.full(given.weights.nnz, 7 * DAY),
            "equal for each user": users * DAY,
        }[times],
    )
    model, plain = fit(given), fit(given, order=0.0)
    assert model.order is None
    assert model.to_arrays().keys() == plain.to_arrays().keys()
    for name, array in model.to_arrays().items():
        np.testing.assert_array_equal(array, plain.to_arrays()[name])
    later = events().histories
    np.testing.assert_array_equal(model.score(later), model.score(Histories(later.weights)))


def test_an_order_that_is_left_open_is_none_until_it_is_decided():
    given = events()
    model = Spectral.fit(given, settings={})
    assert model.order is None
    assert model.settings["order"] is None


def test_one_item_of_one_user_after_another_is_order_enough():
    weights = sparse.csr_array(np.array([[1.0, 1.0], [0.0, 1.0]]))
    model = fit(interactions(weights, np.array([0, 1, 2]) * DAY))
    assert np.isfinite(model.item_weights.data).all()


# Files


def test_a_file_with_a_wrong_order_is_refused():
    model = fit(chains())
    for value in ([0.5, 0.0], [0.0, 3.0], [np.nan, 3.0], [0.5]):
        arrays = {**model.to_arrays(), "order": np.array(value)}
        with pytest.raises(DataError, match="'order'"):
            Spectral.from_arrays(arrays, settings=model.settings, n_items=30)
    for name in ("alike", "following"):
        arrays = {**model.to_arrays()}
        del arrays[f"{name}.data"]
        with pytest.raises(DataError, match=f"'{name}.data' is missing"):
            Spectral.from_arrays(arrays, settings=model.settings, n_items=30)


def test_a_file_keeps_the_parts():
    model = fit(chains())
    again = Spectral.from_arrays(model.to_arrays(), settings=model.settings, n_items=30)
    for item in range(30):
        for asked in ("similar", "next"):
            for found, expected in zip(
                getattr(again, asked)(item, n=5), getattr(model, asked)(item, n=5), strict=True
            ):
                np.testing.assert_array_equal(found, expected)


def test_uncut_parts_score_as_the_matrix_does():
    given = events(per_user=20)
    weighted = Weighted.of(given.weights, "binary")
    factors = weighted.factorise(user_power=0.25, item_power=0.15, n_components=16)
    plain = Plain.of(weighted, factors, SpectralSettings(n_components=16))
    model = fit(given, order=0.0, n_components=16, n_neighbours=40)
    rows = sparse.csr_array((given.weights.toarray() > 0).astype(np.float32))
    close(plain.scores(rows), rows.toarray() @ model.item_weights.toarray())
