"""The SVD, held against dense LAPACK, scikit-learn's definitions and planted factors."""

import warnings

import numpy as np
import pytest
from scipy import sparse
from scipy.sparse.linalg import ArpackError
from sklearn.decomposition import TruncatedSVD

from reckeeper.errors import DataError
from reckeeper.matrix import Histories, IdIndex, InteractionMatrix
from reckeeper.recipes.svd import Svd


def random_counts(shape, *, seed, density=0.3):
    random = np.random.default_rng(seed)
    return np.where(random.random(shape) < density, random.integers(1, 9, shape), 0).astype(float)


def planted(n_users, n_items, values, *, seed=3):
    """Return a dense matrix with these singular values and its right vectors."""
    random = np.random.default_rng(seed)
    left, _ = np.linalg.qr(random.normal(size=(n_users, len(values))))
    right, _ = np.linalg.qr(random.normal(size=(n_items, len(values))))
    return left * values @ right.T, right.T


def as_interactions(weights):
    weights = sparse.csr_array(weights)
    ids = [IdIndex([f"{n:03}" for n in range(length)]) for length in weights.shape]
    return InteractionMatrix(*ids, weights, weights.nnz)


def fit(weights, **settings):
    return Svd.fit(as_interactions(weights), settings=settings)


def truncated(dense, rank):
    left, values, right = np.linalg.svd(dense, full_matrices=False)
    return (left[:, :rank] * values[:rank]) @ right[:rank], values[:rank]


@pytest.mark.parametrize("shape", [(60, 40), (40, 60), (200, 30), (30, 200), (11, 12)], ids=str)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_predicted_ratings_are_those_of_dense_lapack(shape, seed):
    dense = random_counts(shape, seed=seed)
    model = fit(dense)
    expected, values = truncated(dense, 10)
    np.testing.assert_allclose(model.singular_values, values, rtol=1e-10)
    predicted = model.score(Histories(sparse.csr_array(dense)))
    assert np.abs(predicted - expected).max() <= 1e-8 * np.abs(expected).max()


def test_planted_factors_are_found():
    values = np.array([50.0, 30.0, 20.0, 10.0, 5.0])
    dense, right = planted(80, 30, values)
    model = fit(dense, n_components=5)
    np.testing.assert_allclose(model.singular_values, values, rtol=1e-10)
    np.testing.assert_allclose(np.abs((model.components * right).sum(axis=1)), 1.0, rtol=1e-10)
    np.testing.assert_allclose(model.score(Histories(sparse.csr_array(dense))), dense, atol=1e-10)
    assert model.explained_variance == pytest.approx(1.0, rel=1e-12)


def test_values_that_are_equal_or_many_magnitudes_apart():
    for values in ([7.0, 7.0, 7.0, 1.0], [1e6, 1.0, 1e-3]):
        dense, _ = planted(40, 30, np.array(values))
        model = fit(dense, n_components=len(values))
        np.testing.assert_allclose(model.singular_values, values, rtol=1e-6)
        np.testing.assert_allclose(
            model.score(Histories(sparse.csr_array(dense))), dense, atol=1e-7
        )


def test_explained_variance_is_scikit_learns():
    dense = random_counts((60, 40), seed=5)
    model = fit(dense)
    theirs = TruncatedSVD(n_components=10, algorithm="arpack").fit(sparse.csr_matrix(dense))
    np.testing.assert_allclose(
        model.explained_variance_ratio, theirs.explained_variance_ratio_, rtol=1e-9
    )
    left, values, _ = np.linalg.svd(dense, full_matrices=False)
    projected = left[:, :10] * values[:10]
    by_hand = projected.var(axis=0).sum() / dense.var(axis=0).sum()
    assert model.explained_variance == pytest.approx(by_hand, rel=1e-9)


@pytest.mark.parametrize(
    ("shape", "rank"),
    [
        ((2, 2), 1),
        ((2, 50), 1),
        ((50, 2), 1),
        ((3, 9), 2),
        ((10, 10), 9),
        ((10, 99), 9),
        ((11, 11), 10),
        ((99, 11), 10),
        ((12, 12), 10),
        ((6, 12), 5),
    ],
    ids=str,
)
def test_small_matrices_have_the_largest_rank_that_is_left(shape, rank):
    dense = random_counts(shape, seed=1, density=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = fit(dense)
    assert model.components.shape == (rank, shape[1])
    assert model.settings == {"n_components": 10, "weighting": "raw"}
    expected, _ = truncated(dense, rank)
    predicted = model.score(Histories(sparse.csr_array(dense)))
    assert np.abs(predicted - expected).max() <= 1e-8 * np.abs(expected).max()


@pytest.mark.parametrize("shape", [(2, 2), (2, 50), (20, 30)], ids=str)
def test_a_matrix_of_zeros(shape):
    zeros = sparse.csr_array((np.zeros(1), np.array([0]), np.r_[0, np.ones(shape[0], int)]), shape)
    model = fit(zeros)
    assert model.explained_variance == 0.0
    assert not model.singular_values.any()
    assert not model.score(Histories(zeros)).any()
    identity = model.components @ model.components.T
    np.testing.assert_array_equal(identity, np.eye(len(identity)))


@pytest.mark.parametrize("shape", [(2, 2), (5, 4), (20, 30)], ids=str)
@pytest.mark.parametrize("value", [3.0, 0.1, 1 / 3])
def test_a_matrix_without_variance(shape, value):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = fit(np.full(shape, value), n_components=1)
    assert model.explained_variance == 0.0
    np.testing.assert_allclose(
        model.score(Histories(sparse.csr_array(np.full(shape, value)))), value
    )


def test_a_variance_too_small_for_a_number_is_none():
    assert fit([[1e12, 1e-300], [1e12, 0.0]]).explained_variance == 0.0


@pytest.mark.parametrize("shape", [(5, 4), (12, 12), (20, 30)], ids=str)
def test_more_components_than_the_matrix_has(shape):
    """Users who are all alike: rank 1, and the default asks for 10."""
    dense = np.full(shape, 3.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = fit(dense)
    assert model.explained_variance == 0.0
    assert np.isfinite(model.components).all()
    np.testing.assert_allclose(model.score(Histories(sparse.csr_array(dense))), 3.0, rtol=1e-9)


@pytest.mark.parametrize("n_components", [0, -1, 1.0, "10", True, None])
def test_bad_settings_are_refused(n_components):
    with pytest.raises(DataError, match=f"n_components .*not {n_components!r}"):
        fit(np.ones((3, 3)), n_components=n_components)


def test_the_exported_model_transforms_as_scikit_learn_does():
    dense = random_counts((40, 30), seed=2)
    model = fit(dense, n_components=7)
    exported = model.to_sklearn()
    ratings = sparse.csr_matrix(dense)
    np.testing.assert_allclose(
        exported.inverse_transform(exported.transform(ratings)),
        model.score(Histories(ratings)),
        rtol=1e-12,
    )
    assert exported.get_params()["n_components"] == 7
    assert exported.explained_variance_ratio_.sum() == pytest.approx(model.explained_variance)


# Weights of any size, and what lies outside


@pytest.mark.parametrize("scale", [1e-290, 1e-150, 1e-9, 1e12, 1e150, 1e290], ids=str)
def test_the_unit_of_the_weights_makes_no_difference(scale):
    dense = random_counts((60, 40), seed=4)
    model, scaled = fit(dense), fit(dense * scale)
    np.testing.assert_allclose(scaled.singular_values / scale, model.singular_values, rtol=1e-12)
    assert scaled.explained_variance == pytest.approx(model.explained_variance, rel=1e-10)
    np.testing.assert_allclose(
        scaled.score(Histories(sparse.csr_array(dense))),
        model.score(Histories(sparse.csr_array(dense))),
        atol=1e-10,
    )


def test_a_power_of_two_is_exact():
    dense = random_counts((60, 40), seed=4)
    model, scaled = fit(dense), fit(dense * 2.0**60)
    np.testing.assert_array_equal(model.components, scaled.components)
    np.testing.assert_array_equal(model.singular_values * 2.0**60, scaled.singular_values)
    np.testing.assert_array_equal(model.explained_variance_ratio, scaled.explained_variance_ratio)


def test_items_outside_what_was_learned_neither_give_nor_get_a_score():
    """Two components hold two groups; the third, lighter one lies outside."""
    dense = np.kron(np.diag([3.0, 2.0, 1.0]), np.ones((5, 4)))
    dense += np.where(dense > 0, random_counts((15, 12), seed=6, density=0.5) * 1e-3, 0.0)
    model = fit(dense, n_components=2)
    scores = model.score(Histories(sparse.csr_array(dense)))
    assert not scores[10:].any()
    assert not scores[:, 8:].any()
    assert scores[:5, :4].all()
    assert scores[5:10, 4:8].all()


# Similar items


def test_similarity_is_the_cosine_of_the_columns_of_the_approximation():
    dense = random_counts((60, 40), seed=7)
    model = fit(dense, n_components=6)
    columns, _ = truncated(dense, 6)
    columns /= np.linalg.norm(columns, axis=0)
    cosines = columns.T @ columns
    for item in range(40):
        indices, found = model.similar(item, n=100)
        np.testing.assert_allclose(found, cosines[item][indices], rtol=1e-9)
        left_out = np.setdiff1d(np.arange(40), [*indices, item])
        assert (cosines[item][left_out] <= 1e-8).all()


def test_duplicate_columns_are_the_most_similar_and_come_in_order():
    dense = random_counts((30, 9), seed=8)
    dense[:, [5, 2]] = dense[:, [7]]
    indices, cosines = fit(dense).similar(7, n=2)
    assert sorted(indices.tolist()) == [2, 5]
    np.testing.assert_allclose(cosines, 1.0, rtol=1e-12)


def test_a_cosine_is_never_more_than_1():
    for seed in range(20):
        dense = np.repeat(random_counts((30, 5), seed=seed), 3, axis=1)
        model = fit(dense)
        assert max(model.similar(item, n=1)[1][0] for item in range(15)) <= 1.0


@pytest.mark.parametrize("scale", [1e-7, 1e-8, 1e-9, 1e-12])
def test_rounding_is_no_similarity(scale):
    """Two groups, and an item of the first that weighs so little that it drowns."""
    dense = random_counts((30, 9), seed=9)
    dense[:15, 5:] = dense[15:, :5] = 0.0
    dense[:15, 2] *= scale
    model = fit(dense)
    for item in range(9):
        indices, _ = model.similar(item, n=9)
        assert (indices >= 5).all() if item >= 5 else (indices < 5).all()


def test_an_item_that_nobody_has_is_like_none():
    dense = random_counts((30, 9), seed=8)
    dense[:, 4] = 0.0
    model = fit(dense)
    assert len(model.similar(4, n=9)[0]) == 0
    assert all(4 not in model.similar(item, n=9)[0] for item in range(9))


def test_factors_without_a_component_are_refused():
    model = fit(random_counts((30, 9), seed=8))
    arrays = {name: array[:0] for name, array in model.to_arrays().items()}
    with pytest.raises(DataError, match="'components' has no component"):
        Svd.from_arrays(arrays, settings={}, n_items=9)


@pytest.mark.parametrize("seed", [1, 7])
def test_users_who_share_hardly_an_item_are_decomposed(seed):
    """ARPACK breaks down on these: they have a handful of different singular values."""
    random = np.random.default_rng(seed)
    row = np.repeat(np.arange(200), random.permutation(np.repeat([1, 2], [36, 164])))
    column = np.arange(len(row))
    shared = random.choice(len(row), 20, replace=False)
    column[shared] = column[random.choice(len(row), 20)]
    weights = sparse.csr_array((np.ones(len(row)), (row, column)), shape=(200, 1268))
    weights.data[:] = 1
    with pytest.raises(ArpackError), np.errstate(all="ignore"):
        TruncatedSVD(10, algorithm="arpack", random_state=0).fit(weights)

    model = fit(weights)
    dense = weights.toarray()
    _, values, _ = np.linalg.svd(dense)
    assert model.singular_values == pytest.approx(values[:10], rel=1e-9)
    assert model.components @ model.components.T == pytest.approx(np.eye(10), abs=1e-9)
    images = np.linalg.norm(dense @ model.components.T, axis=0)
    assert images == pytest.approx(values[:10], rel=1e-9)
    transformed = dense @ model.components.T
    ratio = transformed.var(axis=0) / dense.var(axis=0).sum()
    assert model.explained_variance_ratio == pytest.approx(ratio, rel=1e-9)


# Weights


@pytest.mark.parametrize("weighting", ["log", "binary"])
def test_weights_enter_as_the_setting_says(weighting):
    """As the plain model of the weighted matrix, for those who were trained and those who come."""
    random = np.random.default_rng(4)
    dense = (random.random((40, 25)) < 0.3) * random.choice([0.5, 1.0, 8.0], (40, 25))
    share = dense / dense[dense > 0].mean()
    entering = np.log1p(share) if weighting == "log" else (dense > 0).astype(float)
    model = fit(dense, n_components=5, weighting=weighting)
    plain = fit(entering, n_components=5)
    np.testing.assert_allclose(model.singular_values, plain.singular_values)
    assert model.explained_variance == pytest.approx(plain.explained_variance)
    scores = model.score(Histories(sparse.csr_array(dense)))
    expected = plain.score(Histories(sparse.csr_array(entering)))
    np.testing.assert_allclose(scores, expected, atol=1e-12)
    again = Svd.from_arrays(model.to_arrays(), settings=model.settings, n_items=25)
    np.testing.assert_array_equal(again.score(Histories(sparse.csr_array(dense))), scores)
    assert model.leading(3).settings == {"n_components": 3, "weighting": weighting}
    exported = model.to_export(as_interactions(dense))
    assert exported["weight_scale"] == pytest.approx(dense[dense > 0].mean())
