"""What list a history gets, held against a plain reading of the rules."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from reckeeper.errors import DataError
from reckeeper.matrix import Histories, IdIndex, InteractionMatrix
from reckeeper.ranking import Ranker, bytes_needed, is_noise, rank_scores
from reckeeper.recipes import recipe_named


class Given:
    """A model that scores an item by the sum of its row's weights times a table."""

    def __init__(self, table, *, is_personal=True):
        self.is_personal = is_personal
        self._table = sparse.csr_array(table)

    def score(self, histories):
        return (histories.weights @ self._table).toarray()


def rows_of(*histories, n_items):
    """Return histories, dicts of weights by item, as rows."""
    indptr = np.cumsum([0, *map(len, histories)])
    indices = [item for history in histories for item in sorted(history)]
    data = [float(history[item]) for history in histories for item in sorted(history)]
    return sparse.csr_array((data, indices, indptr), shape=(len(histories), n_items))


# Noise


def noisy(scores, *, dtype, noise):
    """Return a row of scores in which rounding has left something everywhere."""
    random = np.random.default_rng(0)
    return (np.array(scores) + noise * random.choice([-1.0, 1.0], len(scores))).astype(dtype)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize(
    ("dtype", "noise", "signal"), [(np.float64, 1e-14, 1e-8), (np.float32, 1e-6, 1e-3)]
)
def test_rounding_is_told_from_scores_in_either_precision(dtype, noise, signal, scale):
    """Item 1 is the user's own; whether the others' scores mean anything is the question."""
    seen = np.array([1])
    lone = noisy([0.0, scale, 0.0, 0.0], dtype=dtype, noise=noise * scale)
    assert is_noise(lone, seen=seen)
    known = noisy([0.0, scale, 0.0, signal * scale], dtype=dtype, noise=noise * scale)
    assert not is_noise(known, seen=seen)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_zeros_are_noise_and_scores_below_zero_are_not(dtype):
    nobody = np.array([], dtype=np.int64)
    assert is_noise(np.zeros(4, dtype=dtype), seen=nobody)
    assert not is_noise(np.array([-2.0, -1.0, 0.0], dtype=dtype), seen=nobody)
    assert not is_noise(np.full(3, np.nan, dtype=dtype), seen=nobody)
    assert not is_noise(np.zeros(2, dtype=dtype), seen=np.array([1, 0]))


# Lists


@st.composite
def asked(draw):
    """Draw a table of scores with ties and noise, histories with zeros, and a popularity."""
    n, n_items = draw(st.integers(1, 6)), draw(st.integers(1, 8))
    value = st.sampled_from([-2.0, 0.0, 0.0, 1e-14, 1.0, 1.0, 3.0])
    scores = draw(st.lists(st.lists(value, min_size=n_items, max_size=n_items),
                           min_size=n, max_size=n))  # fmt: skip
    items = st.dictionaries(st.integers(0, n_items - 1), st.sampled_from([0.0, 1.0]))
    histories = draw(st.lists(items, min_size=n, max_size=n))
    popularity = draw(st.lists(st.integers(0, 4), min_size=n_items, max_size=n_items))
    return np.array(scores), rows_of(*histories, n_items=n_items), np.array(popularity)


@given(case=asked(), k=st.integers(1, 9), dtype=st.sampled_from([np.float32, np.float64]))
def test_lists_are_those_of_a_plain_reading(case, k, dtype):
    scores, histories, popularity = case
    scores = scores.astype(dtype)
    lists = rank_scores(scores.copy(), histories, k=k, popularity=popularity)
    for row, own in enumerate(scores):
        seen = histories[[row]].indices
        is_popular = is_noise(own, seen=seen)
        shown = popularity.astype(np.float64) if is_popular else own.astype(np.float64)
        # Where a score is 0, nothing is known of an item but how popular it is.
        tied = np.where(shown == 0, popularity, 0)
        best = [item for item in np.lexsort((-tied, -shown)).tolist()
                if item not in seen][:k]  # fmt: skip
        assert lists.is_popular[row] == is_popular
        assert lists.item_index[row].tolist() == best + [-1] * (k - len(best))
        assert lists.scores[row].tolist() == [*shown[best].tolist(), *[0.0] * (k - len(best))]


def test_scores_of_a_model_that_knows_no_persons_are_taken_as_they_are():
    trained = InteractionMatrix(
        IdIndex(["u", "v"]), IdIndex(list("abc")), sparse.csr_array(np.eye(2, 3)), 2
    )
    nothing = rows_of({}, {0: 1}, n_items=3)
    zeros = Given(np.zeros((3, 3)), is_personal=False)
    lists = Ranker.of(zeros, trained).rank(Histories(nothing), k=2)
    assert lists.item_index.tolist() == [[0, 1], [1, 2]]
    assert not lists.scores.any()
    assert lists.is_popular.all()


def test_a_stranger_and_a_hermit_get_the_popular_items():
    weights = sparse.csr_array([[1.0, 2.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 5.0]])
    trained = InteractionMatrix(IdIndex(list("uvw")), IdIndex(list("abcd")), weights, 5)
    assert trained.popularity.tolist() == [2, 2, 0, 1]
    model = Given(weights.T @ weights - sparse.diags_array([2.0, 5.0, 0.0, 0.0]))
    ranker = Ranker.of(model, trained)
    # Who has a gets b, and then d, which somebody has: its score is 0, as is that of c.
    lists = ranker.rank(Histories(rows_of({}, {3: 1}, {0: 1}, {0: 0}, n_items=4)), k=2)
    assert lists.is_popular.tolist() == [True, True, False, True]
    assert lists.item_index.tolist() == [[0, 1], [0, 1], [1, 3], [1, 3]]
    assert lists.scores.tolist() == [[2, 2], [2, 2], [3, 0], [2, 1]]


def test_histories_of_other_items_get_lists_of_other_items():
    own, items = IdIndex(list("bdf")), IdIndex(list("abcd"))
    weights = sparse.csr_array(np.ones((2, 3)))
    trained = InteractionMatrix(IdIndex(["u", "v"]), own, weights, 6)
    model = Given([[0.0, 2.0, 3.0], [2.0, 0.0, 1.0], [3.0, 1.0, 0.0]])
    ranker = Ranker.of(model, trained).in_ids_of(items, own=own)
    # b, and a, of which the model knows nothing: it would show f, which has no id here, then d.
    lists = ranker.rank(Histories(rows_of({0: 1, 1: 1}, {2: 1}, n_items=4)), k=3)
    assert lists.item_index.tolist() == [[-1, 3, -1], [1, 3, -1]]
    assert lists.scores.tolist() == [[3, 2, 0], [2, 2, 2]]
    assert lists.is_popular.tolist() == [False, True]


@pytest.mark.parametrize("is_renamed", [False, True])
@pytest.mark.parametrize("recipe", ["svd", "popularity"])
def test_items_that_may_not_be_listed_make_room_for_the_next_best(recipe, is_renamed):
    random = np.random.default_rng(4)
    n_users, n_items = 30, 12
    seen = random.random((n_users, n_items)) < 0.3
    weights = sparse.csr_array(seen.astype(np.float64))
    ids = [IdIndex([f"{kind}{n:02}" for n in range(size)])
           for kind, size in (("u", n_users), ("i", n_items))]  # fmt: skip
    trained = InteractionMatrix(*ids, weights, int(seen.sum()))
    ranker = Ranker.of(recipe_named(recipe).fit(trained, settings={}), trained)
    if is_renamed:
        ranker = ranker.in_ids_of(ids[1], own=ids[1])
    histories = trained.histories_of(slice(0, n_users))
    whole = ranker.rank(histories, k=n_items)
    listable = random.random(n_items) < 0.5
    lists = ranker.rank(histories, k=4, listable=listable)
    for row in range(n_users):
        left = [index for index in whole.item_index[row] if index >= 0 and listable[index]]
        expected = [*left[:4], *[-1] * (4 - len(left))]
        assert lists.item_index[row].tolist() == expected
    assert (ranker.rank(histories, k=4, listable=~listable & listable).item_index == -1).all()


def test_users_are_ranked_in_blocks_as_if_at_once():
    random = np.random.default_rng(0)
    weights = sparse.random_array((300, 40_000), density=1e-4, rng=random, format="csr")
    histories = Histories(weights, np.arange(weights.nnz, dtype=np.int32))
    model = Given(sparse.random_array((40_000, 40_000), density=1e-4, rng=random, format="csr"))
    ranker = Ranker(model, popularity=random.random(40_000))
    users = np.arange(5, 300)
    blocks = list(ranker.in_blocks(histories, users, k=7))
    assert len(blocks) > 1
    whole = ranker.rank(histories[users], k=7)
    for place, part in blocks:
        assert (place.stop - place.start) * 40_000 * 8 <= 64 << 20
        for field in ("item_index", "scores", "is_popular"):
            np.testing.assert_array_equal(getattr(part, field), getattr(whole, field)[place])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_that_are_no_numbers_are_refused(value):
    scores = np.array([[1.0, 2.0], [3.0, value]])
    with pytest.raises(DataError, match="no finite numbers"):
        rank_scores(scores, rows_of({}, {}, n_items=2), k=1, popularity=np.ones(2))


def test_few_lists_need_little_memory_and_many_no_more_than_a_block():
    assert bytes_needed(n_users=10, n_items=10) < 10_000
    assert bytes_needed(n_users=10**6, n_items=10**6) < 10**9


# Sparse scores


class Dense:
    """A model's scores without a word of how few terms they have."""

    is_personal = True

    def __init__(self, model):
        self.score = model.score


@pytest.mark.parametrize("listable", [None, np.arange(600) % 7 != 0])
def test_lists_from_few_terms_are_those_from_all_scores(listable):
    random = np.random.default_rng(3)
    columns = (random.random(6_000) ** 2 * 600).astype(int)
    weights = sparse.csr_array((np.ones(6_000), (random.integers(500, size=6_000), columns)))
    weights.resize(500, 600)
    weights.sum_duplicates()
    users, items = (IdIndex([str(n) for n in range(size)]) for size in (500, 600))
    trained = InteractionMatrix(users, items, weights, 6_000)
    settings = {"n_components": 16, "order": 0.0, "n_neighbours": 4}
    model = recipe_named("spectral").fit(trained, settings=settings)
    model.item_weights.data[::5] *= -1
    popularity = trained.popularity.astype(float)
    histories = trained.histories_of(slice(None))
    assert 0 < np.mean(model.n_terms(histories) <= 60) < 1
    for k in (5, 30, 600):
        found, wanted = (
            Ranker(each, popularity=popularity).rank(histories, k=k, listable=listable)
            for each in (model, Dense(model))
        )
        assert np.allclose(found.scores, wanted.scores, rtol=1e-5, atol=1e-7)
        assert (found.is_popular == wanted.is_popular).all()
        assert (found.item_index == wanted.item_index).mean() > 0.999
