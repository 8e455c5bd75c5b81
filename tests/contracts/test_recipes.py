"""What every recipe must do; run on each that there is."""

import json

import numpy as np
import pytest
from scipy import sparse

from reckeeper.errors import DataError, NotEnoughDataError
from reckeeper.recipes import RECIPES, recipe_named

SHAPES = [(2, 2), (2, 50), (50, 2), (3, 3), (11, 11), (40, 25)]


@pytest.fixture(params=RECIPES)
def recipe(request):
    return recipe_named(request.param)


def interactions(shape, *, seed=0):
    random = np.random.default_rng(seed)
    dense = random.poisson(0.4, shape) * random.choice([0.5, 1.0, 2.0], shape)
    dense[0, 0] = 1.0
    return sparse.csr_array(dense.astype(np.float64))


def test_has_the_name_of_its_entry(recipe):
    assert RECIPES[recipe.name] is recipe


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_scores_are_finite_and_one_an_item(recipe, shape):
    weights = interactions(shape)
    scores = recipe.fit(weights, settings={}).score(weights)
    assert scores.shape == shape
    assert scores.dtype == np.float64
    assert np.isfinite(scores).all()


def test_a_block_of_users_scores_as_the_whole_does(recipe):
    weights = interactions((40, 25))
    model = recipe.fit(weights, settings={})
    np.testing.assert_allclose(
        model.score(weights[7:19]), model.score(weights)[7:19], rtol=1e-12, atol=1e-14
    )
    assert model.score(weights[3:3]).shape == (0, 25)


def test_a_user_without_interactions_scores_nothing(recipe):
    weights = interactions((40, 25))
    assert not recipe.fit(weights, settings={}).score(sparse.csr_array((1, 25))).any()


def test_fitting_again_gives_the_same(recipe):
    weights = interactions((40, 25))
    first, second = (recipe.fit(weights, settings={}).to_arrays() for _ in range(2))
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_fitting_leaves_its_input_alone(recipe):
    weights = interactions((40, 25))
    before = weights.copy()
    recipe.fit(weights, settings={})
    assert (weights != before).nnz == 0


def test_the_share_of_variance_lies_between_0_and_1(recipe):
    for shape in SHAPES:
        assert 0 <= recipe.fit(interactions(shape), settings={}).explained_variance <= 1


def test_arrays_give_the_model_again(recipe):
    weights = interactions((40, 25))
    model = recipe.fit(weights, settings={})
    settings = json.loads(json.dumps(model.settings))
    again = recipe.from_arrays(model.to_arrays(), settings=settings, n_items=25)
    assert np.array_equal(again.score(weights), model.score(weights))
    assert again.settings == model.settings
    assert again.explained_variance == model.explained_variance


def test_settings_are_kept_as_asked(recipe):
    assert recipe.fit(interactions((40, 25)), settings=recipe.fit(
        interactions((3, 3)), settings={}).settings).settings == recipe.fit(
        interactions((40, 25)), settings={}).settings  # fmt: skip


def test_an_unknown_setting_is_refused(recipe):
    with pytest.raises(DataError, match="no setting 'temperature'"):
        recipe.fit(interactions((3, 3)), settings={"temperature": 1})


@pytest.mark.parametrize("shape", [(1, 5), (5, 1), (1, 1), (0, 0)], ids=str)
def test_too_little_is_refused_in_numbers(recipe, shape):
    with pytest.raises(NotEnoughDataError, match=f"{shape[0]} user.* {shape[1]} item"):
        recipe.fit(sparse.csr_array(np.ones(shape)), settings={})


def test_arrays_that_are_not_a_model_are_refused(recipe):
    model = recipe.fit(interactions((40, 25)), settings={})
    arrays = model.to_arrays()

    def refuse(changed, *, n_items=25):
        with pytest.raises(DataError):
            recipe.from_arrays(changed, settings=model.settings, n_items=n_items)

    refuse(arrays, n_items=24)
    refuse({})
    for name, array in arrays.items():
        refuse({other: value for other, value in arrays.items() if other != name})
        refuse({**arrays, name: array[:-1]})
        refuse({**arrays, name: array.astype(np.float32)})
        refuse({**arrays, name: np.full_like(array, np.nan)})
        refuse({**arrays, name: array[None]})


def test_an_unknown_recipe_is_refused_with_those_that_there_are():
    with pytest.raises(DataError, match="There is no recipe 'magic': use one of svd"):
        recipe_named("magic")
