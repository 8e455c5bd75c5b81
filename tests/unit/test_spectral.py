"""`spectral`, held against its formula in dense LAPACK, closed forms and planted clusters."""

import dataclasses
import threading

import numpy as np
import pytest
from scipy import linalg as linear
from scipy import sparse
from sklearn.decomposition import TruncatedSVD

from reckeeper import linalg
from reckeeper.errors import DataError
from reckeeper.matrix import Histories, IdIndex, InteractionMatrix
from reckeeper.recipes.spectral import Spectral, SpectralSettings
from reckeeper.recipes.spectral.factors import Weighted, most_components
from reckeeper.recipes.weighting import weigh

WEIGHTINGS = ("binary", "log", "raw")
PLAIN = {"user_power": 0, "item_power": 0, "history_power": 0, "popularity_power": 0}


def random_weights(shape, *, seed=0, density=0.25):
    """Return long-tailed weights; user 3 and item 5 have no interactions."""
    random = np.random.default_rng(seed)
    popularity = density * (0.25 + 3 * random.beta(1, 3, shape[1]))
    dense = (random.random(shape) < popularity) * random.choice([0.5, 1.0, 3.0, 10.0], shape)
    dense[3] = 0.0
    dense[:, 5] = 0.0
    return dense


def interactions(weights):
    weights = sparse.csr_array(weights)
    ids = [IdIndex([f"{n:04}" for n in range(length)]) for length in weights.shape]
    return InteractionMatrix(*ids, weights, weights.nnz, None)


def fit(weights, on_progress=None, **settings):
    return Spectral.fit(interactions(weights), settings=settings, on_progress=on_progress)


def saved_and_loaded(model):
    n_items = model.item_weights.shape[0]
    return Spectral.from_arrays(model.to_arrays(), settings=model.settings, n_items=n_items)


def row_of(weights, *, n_items):
    """Return a history as one row, from a dict of weights by item index."""
    dense = np.zeros((1, n_items))
    dense[0, list(weights)] = list(weights.values())
    return sparse.csr_array(dense)


def entering(dense, weighting):
    """Return X and its sums, as the settings define them."""
    share = dense / dense[dense > 0].mean()
    entries = {"binary": (dense > 0).astype(float), "log": np.log1p(share), "raw": share}[weighting]
    sums = [np.where(total > 0, total, 1.0) for total in (entries.sum(axis=1), entries.sum(axis=0))]
    return entries, *sums


def normalised(dense, settings):
    """Return A, its largest singular value 1, by LAPACK in double precision."""
    entries, of_users, of_items = entering(dense, settings.weighting)
    matrix = of_users[:, None] ** -settings.user_power * entries * of_items**-settings.item_power
    return matrix / np.linalg.norm(matrix, 2)


def by_hand(dense, settings):
    """Return the whole of W, without order."""
    matrix = normalised(dense, settings)
    gram = matrix.T @ matrix
    _, values, vectors = np.linalg.svd(matrix, full_matrices=False)
    k = min(settings.n_components, most_components(dense.shape))
    squares, vectors = values[:k] ** 2, vectors[:k]
    diagonal = np.diag(gram)
    strength = settings.ridge * diagonal[diagonal > 1e-12].mean()
    tail = 1 / ((squares[-1] if k else 1.0) + strength)
    rest = gram - (vectors.T * squares) @ vectors
    filtered = (vectors.T * (squares / (squares + strength))) @ vectors + tail * rest
    left = np.maximum(1 - np.diag(filtered), 0.02)
    _, _, of_items = entering(dense, settings.weighting)
    weights = of_items[:, None] ** -settings.history_power * filtered
    weights *= of_items**settings.popularity_power * left**-settings.diagonal_power
    np.fill_diagonal(weights, 0.0)
    return weights


def assert_close(found, expected, *, tolerance=1e-4):
    """Compare two dense matrices, relative to the largest entry of each row; 1e-12 is zero."""
    expected = np.where(np.abs(expected) > 1e-12, expected, 0.0)
    scale = np.abs(expected).max(axis=1, keepdims=True)
    assert (np.abs(found - expected) <= tolerance * scale).all()


# The matrix


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"n_components": 7},
        {"n_components": 0},
        {"weighting": "log", "ridge": 3.0, "diagonal_power": 0.0},
        {"weighting": "raw", "user_power": 0.7, "item_power": 0.2, "history_power": 0.1},
        {"user_power": -0.2, "item_power": 0.4, "history_power": -0.1, "popularity_power": -0.2},
        {"ridge": 0.5, "n_components": 9, "diagonal_power": 0.5},
        {"ridge": 500.0, "n_components": 5, "popularity_power": 0.9},
        {"weighting": "log", "ridge": 0.1, "item_power": 1, "history_power": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("shape", [(60, 40), (40, 60)], ids=str)
def test_w_is_the_formula(shape, given):
    dense = random_weights(shape)
    model = fit(dense, **given)
    expected = by_hand(dense, SpectralSettings(**given))
    assert_close(model.item_weights.toarray(), expected)
    assert model.item_weights.dtype == np.float32


def test_w_of_more_items_than_a_block_is_the_formula():
    dense = random_weights((100, 600), density=0.1)
    for given in ({"n_components": 20}, {"n_components": 0}):
        model = fit(dense, n_neighbours=600, **given)
        assert_close(model.item_weights.toarray(), by_hand(dense, SpectralSettings(**given)))


@pytest.mark.parametrize("ridge", [1.0, 15.0, 200.0])
def test_with_all_components_it_is_the_autoencoder_with_a_zero_diagonal(ridge):
    """Steck's closed form, by Cholesky: B = I - P / diag(P), P the inverse of G + λ."""
    dense = (random_weights((400, 60), seed=2) > 0).astype(float)
    kept = np.flatnonzero(dense.any(axis=0))
    gram = dense[:, kept].T @ dense[:, kept]
    strength = ridge * np.diag(gram).mean()
    precision = linear.cho_solve(
        linear.cho_factor(gram + strength * np.eye(len(kept))), np.eye(len(kept))
    )
    expected = np.zeros((60, 60))
    expected[np.ix_(kept, kept)] = -precision / np.diag(precision)
    np.fill_diagonal(expected, 0.0)
    model = fit(dense, ridge=ridge, n_components=60, **PLAIN)
    assert_close(model.item_weights.toarray(), expected)
    assert (expected < 0).any()
    away = [
        np.abs(fit(dense, ridge=ridge, n_components=k, **PLAIN).item_weights.toarray() - expected)
        for k in (0, 10, 30, 50)
    ]
    away = [float(part.max()) for part in away]
    assert away == sorted(away, reverse=True)


@pytest.mark.parametrize("given", [{}, {"n_components": 0}, {"ridge": 0.05}], ids=str)
def test_a_row_keeps_its_best_entries_as_they_are(given):
    """Each item is there twice: of the two that are sixth, the first stays."""
    dense = np.repeat(random_weights((200, 150)), 2, axis=1)
    whole = fit(dense, n_neighbours=300, **given).item_weights.toarray()
    kept = fit(dense, n_neighbours=6, **given).item_weights.toarray()
    for item in range(300):
        best = np.argsort(-np.abs(whole[item]), kind="stable")[:6]
        expected = np.zeros(300, dtype=np.float32)
        expected[best] = whole[item, best]
        np.testing.assert_array_equal(kept[item], expected)
    assert ((whole != 0).sum(axis=1) > 6).sum() > 200
    assert (kept < 0).any() == ("ridge" in given)


@pytest.mark.parametrize("ridge", [0.3, 15.0])
def test_directions_that_the_matrix_does_not_have_weigh_nothing(ridge):
    """Each item is there three times: of the 30 components that there can be, 9 exist."""
    dense = np.repeat(random_weights((60, 10), seed=4), 3, axis=1)
    assert np.linalg.matrix_rank(dense > 0) == 9
    model = fit(dense, ridge=ridge)
    assert len(model.singular_values) == 30
    assert_close(model.item_weights.toarray(), by_hand(dense, SpectralSettings(ridge=ridge)))


def test_a_matrix_of_zeros_says_nothing():
    zeros = sparse.csr_array((np.zeros(1), np.array([0]), np.r_[0, np.ones(20, int)]), (20, 30))
    for given in ({}, {"n_components": 0}, {"weighting": "log"}, {"diagonal_power": 0}):
        model = fit(zeros, **given)
        assert model.item_weights.nnz == 0
        assert model.explained_variance == 0.0
        assert not model.score(Histories(zeros)).any()
        assert model.weight_scale == 1.0


# Weights


def test_binary_is_blind_to_how_much_a_weight_is():
    dense = random_weights((60, 40))
    other = dense * np.random.default_rng(1).uniform(0.1, 1e3, dense.shape)
    model, again = fit(dense), fit(other)
    np.testing.assert_array_equal(model.item_weights.toarray(), again.item_weights.toarray())
    np.testing.assert_array_equal(
        model.score(Histories(sparse.csr_array(dense))),
        model.score(Histories(sparse.csr_array(other))),
    )


def test_raw_is_proportional_and_log_is_less():
    dense = random_weights((60, 40))
    single, triple = (row_of({2: weight}, n_items=40) for weight in (1.0, 3.0))
    model = fit(dense, weighting="raw")
    assert_close(model.score(Histories(triple)), 3 * model.score(Histories(single)), tolerance=1e-6)
    model = fit(dense, weighting="log")
    share = 1 / dense[dense > 0].mean()
    ratio = np.log1p(3 * share) / np.log1p(share)
    assert 1 < ratio < 3
    assert_close(
        model.score(Histories(triple)), ratio * model.score(Histories(single)), tolerance=1e-6
    )


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_the_unit_of_the_weights_makes_no_difference(weighting):
    """To the bit where the factor is a power of two, which rounds nothing."""
    dense = random_weights((60, 40))
    expected = fit(dense, weighting=weighting).score(Histories(sparse.csr_array(dense)))
    for factor in (1024.0, 2.0**-30, 2.0**900):
        scaled = sparse.csr_array(factor * dense)
        scores = fit(scaled, weighting=weighting).score(Histories(scaled))
        np.testing.assert_array_equal(scores, expected)
    for factor in (1000.0, 1e-200):
        scaled = sparse.csr_array(factor * dense)
        scores = fit(scaled, weighting=weighting).score(Histories(scaled))
        assert_close(scores, expected, tolerance=1e-5)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_what_was_seen_and_weighs_nothing_changes_nothing(weighting):
    dense = random_weights((60, 40))
    stored = sparse.csr_array(np.where(dense > 0, dense, 1.0))
    stored.data[dense.ravel() == 0] = 0.0
    assert stored.nnz == dense.size
    model, again = fit(dense, weighting=weighting), fit(stored, weighting=weighting)
    np.testing.assert_array_equal(model.item_weights.toarray(), again.item_weights.toarray())
    np.testing.assert_array_equal(
        model.score(Histories(sparse.csr_array(dense))), model.score(Histories(stored))
    )


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_weights_of_any_size_stay_finite(weighting):
    dense = random_weights((60, 40)) * 1e-290
    model = fit(dense, weighting=weighting)
    scores = model.score(Histories(row_of({2: 1e300, 4: 1e-320}, n_items=40)))
    assert np.isfinite(scores).all()
    assert scores.any()
    model = fit(1e300 * random_weights((60, 40)), weighting=weighting)
    assert 0 < model.weight_scale < np.inf
    assert model.item_weights.nnz


def test_a_weight_counts_a_million_times_the_usual_at_most_and_a_millionth_at_least():
    rows = sparse.csr_array(np.array([[2e6, 2e7, 2e-6, 2e-7]]))
    raw = weigh(rows, "raw", scale=2.0).toarray()
    np.testing.assert_allclose(raw, [[1e6, 1e6, 1e-6, 0.0]], rtol=1e-6)
    assert weigh(rows, "binary", scale=2.0).toarray().tolist() == [[1.0, 1.0, 1.0, 1.0]]


# Scores


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_a_row_that_training_never_saw_scores_as_the_same_row_that_it_did(weighting):
    dense = random_weights((60, 40))
    model = fit(dense, weighting=weighting)
    entries, *_ = entering(dense, weighting)
    expected = entries @ model.item_weights.toarray().astype(np.float64)
    again = saved_and_loaded(model)
    assert_close(model.score(Histories(sparse.csr_array(dense))), expected, tolerance=1e-5)
    for user in range(60):
        new = row_of({item: dense[user, item] for item in np.flatnonzero(dense[user])}, n_items=40)
        assert_close(model.score(Histories(new)), expected[[user]], tolerance=1e-5)
        np.testing.assert_array_equal(again.score(Histories(new)), model.score(Histories(new)))


def test_nothing_is_said_of_who_or_what_has_no_interactions():
    dense = random_weights((60, 40))
    for given in ({}, {"ridge": 0.1}, {"weighting": "raw", "n_components": 0}):
        model = fit(dense, **given)
        scores = model.score(Histories(sparse.csr_array(dense)))
        assert not scores[3].any()
        assert not scores[:, 5].any()
        assert not model.score(Histories(row_of({5: 2.0}, n_items=40))).any()
        assert model.similar(5, n=40)[0].size == 0


@pytest.mark.parametrize(
    "given",
    [{}, {"n_components": 0}, {"ridge": 5.0, "n_components": 8}, {"weighting": "log"}],
    ids=str,
)
def test_who_belongs_to_a_cluster_is_given_what_belongs_to_it(given):
    """Four clusters of 25 users and 30 items; one interaction in ten is anywhere."""
    random = np.random.default_rng(7)
    chance = np.kron(np.eye(4), np.full((25, 30), 0.4)) + 0.01
    dense = (random.random(chance.shape) < chance) * random.choice([1.0, 2.0], chance.shape)
    scores = fit(dense, **given).score(Histories(sparse.csr_array(dense)))
    top = linalg.top_k_rows(scores, 5, exclude=sparse.csr_array(dense))
    np.testing.assert_array_equal(top // 30, np.repeat(np.arange(4), 25 * 5).reshape(100, 5))


def test_similar_items_are_the_rows_of_w_in_order():
    model = fit(random_weights((60, 40)), n_neighbours=12)
    for item in range(40):
        row = model.item_weights.toarray()[item]
        order = np.argsort(-row, kind="stable")[: np.count_nonzero(row > 0)]
        for n in (1, 5, 12, 40):
            indices, similarities = model.similar(item, n=n)
            np.testing.assert_array_equal(indices, order[:n])
            np.testing.assert_array_equal(similarities, row[order[:n]])


# The decomposition


def test_a_decomposition_serves_every_smaller_rank():
    weighted = Weighted.of(sparse.csr_array(random_weights((60, 40))), "log")
    large, small = (
        weighted.factorise(user_power=0.4, item_power=0.5, n_components=n) for n in (16, 8)
    )
    assert len(large.components) == 16
    assert len(small.components) == 8
    for ridge in (0.5, 15.0):
        (tail, gains), (same_tail, same_gains) = (
            factors.filter(ridge=ridge, n_components=8) for factors in (large, small)
        )
        assert tail == pytest.approx(same_tail, rel=1e-6)
        assert len(gains) == 8
        np.testing.assert_allclose(gains, same_gains, rtol=1e-5, atol=1e-7)
        found, expected = (
            (factors.components[:8].T * gains) @ factors.components[:8]
            for factors in (large, small)
        )
        np.testing.assert_allclose(found, expected, atol=1e-5)
        np.testing.assert_allclose(
            large.uplift(tail, gains, power=1.0), small.uplift(tail, gains, power=1.0), rtol=1e-5
        )


def test_a_decomposition_by_iteration_serves_every_smaller_rank():
    dense = random_weights((1400, 800), density=0.05)
    assert dense.size > linalg.svd._DENSE_CELLS
    weighted = Weighted.of(sparse.csr_array(dense), "binary")
    large, small = (
        weighted.factorise(user_power=0.4, item_power=0.5, n_components=n) for n in (60, 30)
    )
    for ridge in (0.5, 15.0):
        (tail, gains), (same_tail, same_gains) = (
            factors.filter(ridge=ridge, n_components=30) for factors in (large, small)
        )
        assert tail == pytest.approx(same_tail, rel=0.02)
        np.testing.assert_allclose(gains, same_gains, rtol=0.05, atol=0.02 * gains.max())


def test_the_largest_singular_value_is_1_and_what_it_was_is_kept():
    dense = random_weights((60, 40))
    weighted = Weighted.of(sparse.csr_array(dense), "raw")
    factors = weighted.factorise(user_power=0.3, item_power=0.6, n_components=5)
    entries, of_users, of_items = entering(dense, "raw")
    matrix = of_users[:, None] ** -0.3 * entries * of_items**-0.6
    assert factors.largest == pytest.approx(np.linalg.norm(matrix, 2), rel=1e-6)
    assert factors.singular_values[0] == 1.0
    np.testing.assert_allclose(factors.matrix.toarray() * factors.largest, matrix, rtol=1e-5)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_explained_variance_is_scikit_learns_of_the_normalised_matrix(weighting):
    dense = random_weights((60, 40))
    model = fit(dense, weighting=weighting, n_components=10)
    matrix = normalised(dense, SpectralSettings(weighting=weighting))
    theirs = TruncatedSVD(n_components=10, algorithm="arpack").fit(matrix)
    np.testing.assert_allclose(model.singular_values, theirs.singular_values_, rtol=1e-4)
    np.testing.assert_allclose(
        model.explained_variance_ratio, theirs.explained_variance_ratio_, rtol=1e-3, atol=1e-6
    )
    assert model.explained_variance == pytest.approx(theirs.explained_variance_ratio_.sum(), 1e-3)


def test_the_decomposition_is_scikit_learns():
    dense = random_weights((60, 40))
    model = fit(dense, n_components=10)
    matrix = normalised(dense, SpectralSettings())
    exported = model.to_sklearn()
    expected, values, _ = np.linalg.svd(matrix)
    np.testing.assert_allclose(
        np.abs(exported.transform(matrix)), np.abs(expected[:, :10] * values[:10]), atol=1e-5
    )
    assert exported.n_components == 10
    assert exported.n_features_in_ == 40


def test_there_is_no_decomposition_without_components_or_from_a_file():
    dense = random_weights((60, 40))
    assert fit(dense, n_components=0).to_sklearn() is None
    assert fit(dense, n_components=0).explained_variance == 0.0
    model = fit(dense)
    assert model.to_sklearn() is not None
    assert saved_and_loaded(model).to_sklearn() is None
    assert saved_and_loaded(model).explained_variance == model.explained_variance


def test_the_export_gives_the_scores():
    dense = random_weights((60, 40))
    model = fit(dense, weighting="log")
    exported = model.to_export(interactions(dense))
    assert exported["recency_weights"] is None
    assert exported["weight_scale"] == pytest.approx(dense[dense > 0].mean())
    predicted = np.log1p(dense / exported["weight_scale"]) @ exported["item_weights"]
    assert_close(predicted, model.score(Histories(sparse.csr_array(dense))), tolerance=1e-6)


# Progress


@pytest.mark.parametrize("given", [{"n_components": 10}, {"n_components": 0}], ids=str)
def test_progress_is_told_in_order_on_the_thread_that_fits(given):
    """However many threads fill the blocks of items, here more than one."""
    dense = random_weights((60, 4200), density=0.05)
    told = []

    def report(fraction):
        told.append((fraction, threading.current_thread() is threading.main_thread()))

    fit(dense, on_progress=report, **given)
    assert told == sorted(told)
    assert all(is_main for _, is_main in told)
    assert told[-1][0] == 1.0
    assert len({fraction for fraction, _ in told if fraction > 0.4}) >= 3

    class CancelledError(Exception):
        pass

    heard = []

    def cancel(fraction):
        heard.append(fraction)
        if len(heard) == len(told) - 2:
            raise CancelledError

    with pytest.raises(CancelledError):
        fit(dense, on_progress=cancel, **given)
    assert heard == [fraction for fraction, _ in told[:-2]]


# Files


@pytest.fixture(scope="module")
def model():
    return fit(random_weights((60, 40)), n_neighbours=12)


def refuse(model, match, **changed):
    arrays = {**model.to_arrays(), **{f"item_weights.{name}": changed[name] for name in changed}}
    with pytest.raises(DataError, match=match):
        Spectral.from_arrays(arrays, settings=model.settings, n_items=40)


def test_a_file_that_cuts_entries_wrongly_is_refused(model):
    """SciPy's own check looks no further where the last cut is 0."""
    sound = model.to_arrays()["item_weights.indptr"]
    n_entries = sound[-1]
    for at, value in [(0, 1), (0, -1), (7, -1), (7, n_entries + 1), (40, n_entries - 1), (40, 0)]:
        cuts = sound.copy()
        cuts[at] = value
        refuse(model, f"indptr' does not cut {n_entries} entries", indptr=cuts)
    cuts = sound.copy()
    cuts[1:40], cuts[40] = 2**60, 0
    refuse(model, "does not cut", indptr=cuts)
    refuse(model, "does not cut", indptr=np.zeros(41, dtype=np.int64))
    nothing = {"data": np.empty(0, np.float32), "indices": np.empty(0, np.int32)}
    refuse(model, "does not cut 0 entries", indptr=cuts, **nothing)


def test_a_file_that_names_items_that_are_not_there_is_refused(model):
    for value in (-1, 40, 2**31 - 1):
        indices = model.to_arrays()["item_weights.indices"].copy()
        indices[9] = value
        refuse(model, "'item_weights' are not a sparse matrix: indices must be", indices=indices)


def test_a_file_without_a_usual_weight_is_refused(model):
    for value in (0.0, -1.0, np.nan, np.inf):
        arrays = {**model.to_arrays(), "weight_scale": np.array([value])}
        with pytest.raises(DataError, match="'weight_scale'"):
            Spectral.from_arrays(arrays, settings=model.settings, n_items=40)


def test_settings_out_of_range_are_refused(model):
    for name, value in [
        ("ridge", 0),
        ("n_components", -1),
        ("weighting", "none"),
        ("diagonal_power", 3),
    ]:
        with pytest.raises(DataError, match=f"^{name} must be"):
            fit(np.ones((3, 3)), **{name: value})
        with pytest.raises(DataError, match=f"^{name} must be"):
            Spectral.from_arrays(
                model.to_arrays(), settings={**model.settings, name: value}, n_items=40
            )
    assert model.settings == dataclasses.asdict(SpectralSettings(n_neighbours=12))


def test_a_file_of_the_form_before_is_refused_in_words(model):
    before = {"filter": "sum", "mixing": 1.0, "spectral_power": 0.5, "ridge": 0.3}
    with pytest.raises(DataError, match=r"spectral has no setting 'filter': it has weighting, "):
        Spectral.from_arrays(model.to_arrays(), settings=before, n_items=40)


def test_the_last_directions_that_are_kept_are_resolved():
    """A mixture of the last with those beyond has less of the matrix in it than they have."""
    random = np.random.default_rng(0)
    n_users, n_items, k = 2000, 1200, 128
    popularity = (np.arange(n_items) + 10.0) ** -0.7
    row = np.repeat(np.arange(n_users), 20)
    column = random.choice(n_items, size=len(row), p=popularity / popularity.sum())
    pairs = sparse.coo_array((np.ones(len(row)), (row, column)), shape=(n_users, n_items)).tocsr()
    factors = Weighted.of(pairs, "binary").factorise(
        user_power=0.25, item_power=0.15, n_components=k
    )
    exact = np.linalg.svd(factors.matrix.toarray(), compute_uv=False)[:k]
    found = factors.singular_values**2
    assert found.sum() > 0.98 * (exact**2).sum()
    assert (found > 0.8 * exact**2).all()
