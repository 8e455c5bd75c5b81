"""What is like an item and what comes after it, held against a plain reading."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from reckeeper.matrix import IdIndex, InteractionMatrix
from reckeeper.recipes import recipe_named
from reckeeper.serving.similar import by_categories, by_model

DAY = 86_400_000_000
MODELS = {
    "svd": {"n_components": 4},
    "spectral": {"order": 0.0},
    "spectral with order": {"order": 0.5},
    "popularity": {},
}


def fitted(name):
    random = np.random.default_rng(3)
    weights = sparse.csr_array(random.poisson(0.5, (50, 12)).astype(np.float64))
    users, items = (IdIndex([f"{each}{n:02}" for n in range(n_of)]) for each, n_of in
                    zip("ui", weights.shape, strict=True))  # fmt: skip
    times = 1_700_000_000_000_000 + np.arange(weights.nnz) * DAY
    made = InteractionMatrix(users, items, weights, weights.nnz, times)
    return recipe_named(name.split()[0]).fit(made, settings=MODELS[name])


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    return fitted(request.param)


def naive(ask, items, listable, n):
    """Return ids and scores of the best: each item's own list, added up."""
    total = {}
    for item in items:
        for other, value in zip(*ask(item, n=12), strict=True):
            total[int(other)] = total.get(int(other), 0.0) + float(value)
    left = [other for other in total if other not in items and listable[other]]
    left.sort(key=lambda other: (-total[other], other))
    return left[:n], [total[other] for other in left[:n]]


@given(
    items=st.lists(st.integers(0, 11), min_size=1, max_size=4, unique=True),
    listable=st.lists(st.booleans(), min_size=12, max_size=12),
    n=st.integers(1, 13),
    kind=st.sampled_from(["alike", "next"]),
)
def test_a_basket_has_what_its_items_have_added_up(model, items, listable, n, kind):
    answered, found, scores = by_model(
        model, items, kind=kind, n=n, n_items=12, listable=np.array(listable)
    )
    expected = naive(model.next, items, listable, n) if kind == "next" else ([], [])
    assert (answered == "next") is bool(expected[0])
    if answered == "alike":
        expected = naive(model.similar, items, listable, n)
    assert found.tolist() == expected[0]
    assert scores.tolist() == pytest.approx(expected[1])


def test_only_a_model_with_order_says_what_comes_next():
    answers = {
        name: by_model(fitted(name), [3], kind="next", n=3, n_items=12, listable=None)
        for name in MODELS
    }
    assert [name for name in MODELS if answers[name][0] == "next"] == ["spectral with order"]
    assert [name for name in MODELS if not len(answers[name][1])] == ["popularity"]


def test_of_items_that_share_as_much_the_most_popular_comes_first():
    akin = [("b", 0.5), ("a", 0.5), ("d", 0.5), ("c", 1.0), ("e", 0.25)]
    popularity = {"a": 0.0, "b": 0.0, "c": 1.0, "d": 7.0, "e": 9.0}.__getitem__
    best = by_categories(akin, n=9, popularity=popularity)
    assert best == [("c", 1.0), ("d", 0.5), ("a", 0.5), ("b", 0.5), ("e", 0.25)]
    assert by_categories(iter(akin), n=2, popularity=popularity) == best[:2]
