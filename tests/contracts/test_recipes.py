"""What every recipe must do; run on each that there is, by default and with other settings.

And on one that is added as people would add theirs: see `small_recipe`.
"""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from tests.contracts.small_recipe import Together

from reckeeper.errors import DataError, NotEnoughDataError
from reckeeper.matrix import Histories, IdIndex, InteractionMatrix
from reckeeper.ranking import is_noise
from reckeeper.recipes import RECIPES, Recipe, Sizes, describe_recipes, recipe_named

SHAPES = [(2, 2), (2, 50), (50, 2), (3, 3), (11, 11), (40, 25)]
DAY = 86_400_000_000
OTHER_SETTINGS = {
    "svd": [{"n_components": 3}, {"weighting": "log"}, {"weighting": "binary"}],
    "spectral": [
        {"n_components": 0},
        {"ridge": 1.0, "diagonal_power": 0.5},
        {"weighting": "log"},
        {"weighting": "raw"},
        {"n_neighbours": 3},
        {"user_power": -0.2, "popularity_power": -0.1},
        {"order": 0.5},
    ],
    "popularity": [{"half_life_days": 30}],
}
EVERY_RECIPE = {**RECIPES, Together.name: Together}
PICKLE = {"rating_matrix", "svd_model", "predicted_ratings", "metadata"}


@pytest.fixture(autouse=True, scope="module")
def added():
    """Enter the small recipe in the table, which is all that it takes."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setitem(RECIPES, Together.name, Together)
        yield


@pytest.fixture(params=EVERY_RECIPE)
def recipe(request):
    return recipe_named(request.param)


@pytest.fixture(
    params=[
        (name, given) for name in EVERY_RECIPE for given in [{}, *OTHER_SETTINGS.get(name, [])]
    ],
    ids=str,
)
def fit(request):
    """Return a function that fits a recipe with some settings."""
    name, settings = request.param

    def run(interactions, **rest):
        return recipe_named(name).fit(interactions, settings=settings, **rest)

    return run


def interactions_of(weights):
    """Return these weights with ids, and a time for each stored pair."""
    weights = sparse.csr_array(weights)
    users, items = (
        IdIndex([f"{letter}{n:03}" for n in range(length)])
        for letter, length in zip("ui", weights.shape, strict=True)
    )
    latest_at = 1_700_000_000_000_000 + np.arange(weights.nnz, dtype=np.int64) * DAY
    return InteractionMatrix(users, items, weights, weights.nnz, latest_at)


def interactions(shape, *, seed=0):
    random = np.random.default_rng(seed)
    dense = random.poisson(0.4, shape) * random.choice([0.5, 1.0, 2.0], shape)
    dense[0, 0] = 1.0
    return interactions_of(dense.astype(np.float64))


def row_of(weights, *, n_items):
    """Return a history as one row, from a dict of weights by item index."""
    columns = np.array(list(weights), dtype=np.int64)
    data = np.array(list(weights.values()), dtype=np.float64)
    return sparse.csr_array((data, columns, np.array([0, len(data)])), shape=(1, n_items))


def assert_close(scores, expected, *, single=1e-5):
    """Compare to the precision of the scores, relative to the largest of each row."""
    assert scores.shape == expected.shape
    tolerance = 1e-12 if scores.dtype == np.float64 else single
    scale = np.abs(expected).max(axis=1, keepdims=True, initial=0.0)
    assert (np.abs(scores - expected) <= tolerance * scale).all()


def test_what_was_seen_without_taste_counts_for_nothing(fit):
    liked = interactions((20, 15))
    unliked = sparse.coo_array(liked.weights.toarray() == 0)
    row, column = (np.r_[old, new] for old, new in zip(
        liked.weights.tocoo().coords, (index[::3] for index in unliked.coords), strict=True
    ))  # fmt: skip
    n_seen = len(row) - liked.weights.nnz
    order = np.lexsort((column, row))
    weights = np.r_[liked.weights.data, np.zeros(n_seen)][order]
    starts = np.searchsorted(row[order], np.arange(21))
    seen = dataclasses.replace(
        liked,
        weights=sparse.csr_array((weights, column[order], starts), shape=(20, 15)),
        latest_at=np.r_[liked.latest_at, np.full(n_seen, liked.latest_at.max())][order],
    )
    scores, expected = (fit(given).score(given.histories) for given in (seen, liked))
    assert_close(scores, expected)


@st.composite
def hostile(draw):
    """Draw a small matrix with empty rows and columns, stored zeros, and weights of any size."""
    n_users, n_items = draw(st.integers(2, 9)), draw(st.integers(2, 9))
    cell = st.sampled_from([None, None, None, 0.0, 0.5, 1.0, 1.0, 3.0, 1e-300, 1e-9, 1e12])
    cells = draw(
        st.lists(
            st.lists(cell, min_size=n_items, max_size=n_items),
            min_size=n_users,
            max_size=n_users,
        )
    )
    if draw(st.booleans()):
        cells = [[row[0], *row[:-1]] for row in cells]  # a duplicate column
    if draw(st.booleans()):
        cells = [cells[0], *cells[:-1]]  # and a duplicate row
    stored = [(item, value) for row in cells for item, value in enumerate(row) if value is not None]
    lengths = [sum(value is not None for value in row) for row in cells]
    return interactions_of(
        sparse.csr_array(
            (
                np.array([value for _, value in stored], dtype=np.float64),
                np.array([item for item, _ in stored], dtype=np.int32),
                np.cumsum([0, *lengths], dtype=np.int32),
            ),
            shape=(n_users, n_items),
        )
    )


# Names and settings


def test_has_the_name_of_its_entry(recipe):
    assert RECIPES[recipe.name] is recipe


def test_an_unknown_recipe_is_refused_with_those_that_there_are():
    with pytest.raises(
        DataError, match=f"There is no recipe 'magic': use one of {'.*'.join(RECIPES)}"
    ):
        recipe_named("magic")


def test_every_recipe_is_described_in_json(recipe):
    described = json.loads(json.dumps(describe_recipes()))
    assert [entry["name"] for entry in described] == list(RECIPES)
    (entry,) = (entry for entry in described if entry["name"] == recipe.name)
    assert list(entry) == ["name", "summary", "decomposes", "settings"]
    assert entry["summary"].endswith(".")
    assert entry["decomposes"] is recipe.decomposes
    fitted = recipe.fit(interactions((3, 3)), settings={})
    assert {each["name"]: each["default"] for each in entry["settings"]} == fitted.settings
    assert all(each["help"].endswith(".") for each in entry["settings"])


def test_settings_are_kept_as_asked_and_complete(fit):
    settings = fit(interactions((40, 25))).settings
    assert json.loads(json.dumps(settings)) == settings
    assert fit(interactions((3, 3))).settings == settings


def test_all_that_is_fitted_may_be_fitted_again_with_its_own_settings(recipe, fit):
    defaults = recipe.fit(interactions((40, 25)), settings={}).settings
    assert recipe.fit(interactions((40, 25)), settings=defaults).settings == defaults


def test_an_unknown_setting_is_refused_with_those_that_there_are(recipe):
    names = [field.name for field in dataclasses.fields(recipe.settings_type)]
    expected = f"The recipe {recipe.name} has no setting 'temperature': it has {', '.join(names)}"
    with pytest.raises(DataError, match=expected):
        recipe.fit(interactions((3, 3)), settings={"temperature": 1})


def test_no_setting_takes_what_it_cannot_be(recipe):
    for field in dataclasses.fields(recipe.settings_type):
        for value in ("nonsense", [1], {}, float("nan"), float("inf"), -float("inf"), 10**400):
            with pytest.raises(DataError, match=rf"^{field.name} must be .*, not "):
                recipe.fit(interactions((3, 3)), settings={field.name: value})


# What is fitted to


def test_too_little_is_refused_in_numbers(recipe):
    for shape in [(1, 5), (5, 1), (1, 1), (0, 0)]:
        with pytest.raises(NotEnoughDataError, match=f"{shape[0]} user.* {shape[1]} item"):
            recipe.fit(interactions_of(np.ones(shape)), settings={})


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=str)
@pytest.mark.parametrize(("row", "column"), [(0, 0), (3, 5), (39, 24)])
def test_a_weight_that_is_no_number_is_refused_with_its_place(recipe, value, row, column):
    dense = interactions((40, 25)).weights.toarray()
    dense[2] = 0.0
    dense[row, column] = value
    expected = rf"row {row}, column {column} \(user 'u{row:03}', item 'i{column:03}'\) is {value}"
    with pytest.raises(DataError, match=expected):
        recipe.fit(interactions_of(dense), settings={})


def test_fitting_leaves_its_input_alone(fit):
    given = interactions((40, 25))
    parts = [given.weights.data, given.weights.indices, given.weights.indptr, given.latest_at]
    before = [part.copy() for part in parts]
    fit(given)
    for part, copy in zip(parts, before, strict=True):
        np.testing.assert_array_equal(part, copy)


def test_fitting_again_gives_the_same_to_the_bit(fit):
    first, second = (fit(interactions((40, 25))).to_arrays() for _ in range(2))
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_progress_goes_up_to_1(fit):
    told = []
    fit(interactions((40, 25)), on_progress=told.append)
    assert told == sorted(told)
    assert told[0] >= 0
    assert told[-1] == 1


def test_what_progress_raises_ends_the_fit(fit):
    class CancelledError(Exception):
        pass

    told = []
    fit(interactions((40, 25)), on_progress=told.append)
    for n_calls in {1, len(told) // 2, len(told)} - {0}:
        heard = []

        def cancel(fraction, heard=heard, n_calls=n_calls):
            heard.append(fraction)
            if len(heard) == n_calls:
                raise CancelledError

        with pytest.raises(CancelledError):
            fit(interactions((40, 25)), on_progress=cancel)
        assert heard == told[:n_calls]


def test_the_share_of_variance_lies_between_0_and_1(fit):
    for shape in SHAPES:
        model = fit(interactions(shape))
        assert 0 <= model.explained_variance <= 1
        assert model.decomposes or model.explained_variance == 0


# Memory


def footprint_of(recipe, *, settings, n_users, n_items, n_pairs):
    return recipe.footprint(Sizes(n_users, n_items, n_pairs, n_threads=2), settings=settings)


@pytest.mark.parametrize("shape", [*SHAPES, (200, 300)])
def test_the_footprint_of_a_model_is_what_it_holds(fit, shape):
    model = fit(interactions(shape))
    estimated = footprint_of(
        type(model), settings=model.settings, n_users=shape[0], n_items=shape[1], n_pairs=10
    )
    held = sum(array.nbytes for array in model.to_arrays().values())
    # Beside what grows with the product of sizes there are a few numbers an item and component.
    assert held <= estimated.model_bytes + 32 * sum(shape)
    assert estimated.model_bytes <= estimated.fit_bytes


def test_the_footprint_grows_with_the_data_and_is_there_for_none(recipe):
    sizes = {"n_users": 10_000, "n_items": 3000, "n_pairs": 500_000}
    estimated = footprint_of(recipe, settings={}, **sizes)
    assert estimated.fit_bytes > 8 * sizes["n_pairs"]
    for name, size in sizes.items():
        more = footprint_of(recipe, settings={}, **{**sizes, name: 2 * size})
        assert more.fit_bytes >= estimated.fit_bytes
    nothing = footprint_of(recipe, settings={}, n_users=0, n_items=0, n_pairs=0)
    assert nothing.fit_bytes < 100_000_000
    with pytest.raises(DataError, match="has no setting 'colour'"):
        footprint_of(recipe, settings={"colour": "red"}, **sizes)


# Scores


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_scores_are_finite_and_one_an_item(fit, shape):
    given = interactions(shape)
    model = fit(given)
    scores = model.score(given.histories)
    assert scores.shape == shape
    assert scores.dtype in (np.float64, np.float32)
    assert np.isfinite(scores).all()
    # What goes together is, of two items, one number: it may well be that they do not.
    assert scores.any() or (shape[1] == 2 and not len(model.similar(0, n=1)[0]))


def test_a_block_of_users_scores_as_the_whole_does(fit):
    given = interactions((40, 25))
    model = fit(given)
    assert_close(model.score(given.histories_of(slice(7, 19))), model.score(given.histories)[7:19])
    assert model.score(given.histories_of(slice(3, 3))).shape == (0, 25)


def test_order_makes_a_difference_where_the_recipe_says_so(fit):
    given = interactions((40, 25))
    model = fit(given)
    unordered = model.score(Histories(given.weights))
    assert np.array_equal(model.score(given.histories), unordered) is not model.is_ordered


def test_a_history_scores_as_the_same_row_that_was_trained(fit):
    """In any order of items, and with what was seen and weighs nothing."""
    given = interactions((40, 25))
    model = fit(given)
    trained = model.score(given.histories)
    for user in range(40):
        row = given.weights[[user]]
        history = dict(zip(row.indices[::-1].tolist(), row.data[::-1].tolist(), strict=True))
        unseen = next(item for item in range(25) if item not in history)
        entries = slice(given.weights.indptr[user], given.weights.indptr[user + 1])
        times = np.append(given.latest_at[entries][::-1], given.latest_at.max())
        again = Histories.of_times(row_of({**history, unseen: 0.0}, n_items=25), times)
        scores = model.score(again)
        assert_close(scores, trained[[user]])


def test_who_was_trained_makes_no_difference_to_a_row_that_was_not(fit):
    """The same history scores the same as a new user's and as that of a user with another row."""
    model = fit(interactions((40, 25)))
    new = interactions((6, 25), seed=5).weights
    assert_close(model.score(Histories(new[[4]])), model.score(Histories(new))[[4]])


def test_a_user_without_interactions_scores_nothing_or_what_everybody_does(fit):
    given = interactions((40, 25))
    model = fit(given)
    empty = model.score(Histories(sparse.csr_array((1, 25))))
    weightless = model.score(Histories(row_of({3: 0.0, 7: 0.0}, n_items=25)))
    np.testing.assert_array_equal(weightless, empty)
    if model.is_personal:
        assert not empty.any()
    else:
        np.testing.assert_array_equal(model.score(given.histories), np.repeat(empty, 40, axis=0))


def test_of_a_user_who_shares_no_item_a_personal_recipe_says_so(fit):
    """More groups of equal size than components, and one user alone with one item."""
    dense = np.kron(np.eye(15), np.full((4, 3), 2.0))
    dense = np.pad(dense, ((0, 1), (0, 1)))
    dense[-1, -1] = 1.0
    given = interactions_of(dense)
    model = fit(given)
    scores = model.score(given.histories_of(slice(60, 61)))[0]
    if model.is_personal:
        assert is_noise(scores, seen=np.array([45]))
    else:
        assert not is_noise(scores, seen=np.array([45]))


def test_scores_may_be_written_to(fit):
    given = interactions((40, 25))
    model = fit(given)
    before = model.score(given.histories)
    scores = model.score(given.histories)
    scores[:] = -np.inf
    np.testing.assert_array_equal(model.score(given.histories), before)


# Similar items


def assert_sorted(ask, *, n_items):
    for item in range(n_items):
        indices, similarities = ask(item, n=n_items + 5)
        assert indices.shape == similarities.shape
        assert np.issubdtype(indices.dtype, np.integer)
        assert item not in indices
        assert len(set(indices.tolist())) == len(indices) < n_items
        assert ((indices >= 0) & (indices < n_items)).all()
        assert np.isfinite(similarities).all()
        assert (similarities > 0).all()
        assert (np.diff(similarities) <= 0).all()
        first, best = ask(item, n=2)
        np.testing.assert_array_equal(first, indices[:2])
        np.testing.assert_array_equal(best, similarities[:2])


def assert_similar(model, *, n_items):
    assert_sorted(model.similar, n_items=n_items)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_what_comes_next_is_sorted_and_others(fit, shape):
    model = fit(interactions(shape))
    assert_sorted(model.next, n_items=shape[1])
    again = type(model).from_arrays(model.to_arrays(), settings=model.settings, n_items=shape[1])
    for first, second in zip(model.next(0, n=5), again.next(0, n=5), strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_similar_items_are_sorted_and_others(fit, shape):
    assert_similar(fit(interactions(shape)), n_items=shape[1])


def test_what_the_same_users_like_is_similar(fit):
    """Three groups of users and items that share nothing."""
    random = np.random.default_rng(2)
    dense = np.kron(np.eye(3), np.ones((20, 6))) * (random.random((60, 18)) < 0.7)
    model = fit(interactions_of(dense))
    for item in range(18):
        indices, _ = model.similar(item, n=17)
        assert set((indices // 6).tolist()) == ({item // 6} if model.is_personal else set())


def test_likeness_is_what_is_said_of_similar_items(fit):
    model = fit(interactions((40, 25)))
    items = np.random.default_rng(0).permutation(25)[:20]
    likeness = model.likeness(items)
    said = np.zeros((25, 25))
    for item in range(25):
        indices, similarities = model.similar(item, n=25)
        said[item, indices] = similarities / (1.0 if model.name == "svd" else similarities[:1])
    np.testing.assert_allclose(likeness, np.maximum(said, said.T)[np.ix_(items, items)], atol=1e-6)
    assert not np.diag(likeness).any()
    assert model.likeness(items[:0]).shape == (0, 0)


# Reasons


def test_contributions_add_up_to_the_scores(fit):
    """Of what was trained, of new rows, with times and without, and of what was seen alone."""
    given = interactions((40, 25))
    model = fit(given)
    items = np.random.default_rng(0).permutation(25)[:7]
    unordered = Histories(interactions((6, 25), seed=5).weights)
    seen = Histories.of_times(row_of({3: 0.0, 7: 2.0, 9: 1.0}, n_items=25), np.array([1, 2, 3]))
    for histories in (given.histories, unordered, seen):
        scores = model.score(histories)
        for user in range(len(histories)):
            history = histories[user : user + 1]
            made = model.contributions(history, items)
            if made is None:
                assert type(model).contributions is Recipe.contributions
                continue
            assert made.shape == (history.weights.nnz, 7)
            assert not made[history.weights.data == 0].any()
            whole = np.abs(scores[user]).max(initial=0.0)
            tolerance = 1e-12 if scores.dtype == np.float64 else 1e-5
            np.testing.assert_allclose(
                made.sum(axis=0), scores[user, items], rtol=0, atol=tolerance * whole
            )


# Few terms


def test_sparse_scores_are_the_scores(fit):
    given = interactions((40, 25))
    model = fit(given)
    n_terms = model.n_terms(given.histories)
    if n_terms is None:
        assert type(model).sparse_score is Recipe.sparse_score
    stored = model.sparse_score(given.histories)
    scores = model.score(given.histories)
    assert stored.dtype == scores.dtype
    assert n_terms is None or (np.diff(stored.indptr) <= n_terms).all()
    assert_close(stored.toarray(), scores)


# Whatever is given


@given(given=hostile())
def test_any_matrix_is_fitted_and_scored(fit, given):
    model = fit(given)
    scores = model.score(given.histories)
    assert scores.shape == given.weights.shape
    assert np.isfinite(scores).all()
    assert 0 <= model.explained_variance <= 1
    assert_similar(model, n_items=len(given.items))
    again = type(model).from_arrays(
        model.to_arrays(), settings=model.settings, n_items=len(given.items)
    )
    np.testing.assert_array_equal(again.score(given.histories), scores)
    for user in range(len(given.users)):
        assert_close(model.score(given.histories_of(slice(user, user + 1))), scores[[user]])


# Files


def test_arrays_give_the_model_again(fit):
    given = interactions((40, 25))
    model = fit(given)
    settings = json.loads(json.dumps(model.settings))
    again = type(model).from_arrays(model.to_arrays(), settings=settings, n_items=25)
    new = interactions((6, 25), seed=5).weights
    for rows in (given.weights, new):
        np.testing.assert_array_equal(again.score(Histories(rows)), model.score(Histories(rows)))
    for item in range(25):
        for part, same in zip(again.similar(item, n=9), model.similar(item, n=9), strict=True):
            np.testing.assert_array_equal(part, same)
    assert again.settings == model.settings
    assert again.explained_variance == model.explained_variance


def test_arrays_that_are_not_a_model_are_refused(fit):
    model = fit(interactions((40, 25)))
    arrays = model.to_arrays()

    def refuse(changed, *, settings=model.settings, n_items=25):
        with pytest.raises(DataError):
            type(model).from_arrays(changed, settings=settings, n_items=n_items)

    refuse(arrays, n_items=24)
    refuse(arrays, n_items=26)
    refuse(arrays, settings={"temperature": 1})
    refuse({})
    for name, array in arrays.items():
        refuse({other: value for other, value in arrays.items() if other != name})
        if len(array):
            refuse({**arrays, name: array[:-1]})
            refuse({**arrays, name: array[:0]})
        refuse({**arrays, name: array[None]})
        another = np.float32 if array.dtype == np.float64 else np.float64
        refuse({**arrays, name: array.astype(another)})
        refuse({**arrays, name: array.astype("S8")})
        if np.issubdtype(array.dtype, np.floating) and len(array):
            for value in (np.nan, np.inf):
                spoiled = array.copy()
                spoiled[-1] = value
                refuse({**arrays, name: spoiled})


def test_the_export_says_what_the_model_says(fit):
    """The decomposition, if it has components, and nothing in the place of the contract's parts."""
    given = interactions((40, 25))
    model = fit(given)
    assert not PICKLE & model.to_export(given).keys()
    exported = model.to_sklearn()
    assert (exported is not None) is (model.explained_variance > 0)
    if exported is not None:
        assert exported.explained_variance_ratio_.sum() == pytest.approx(model.explained_variance)
        assert exported.components_.shape == (len(exported.singular_values_), 25)
