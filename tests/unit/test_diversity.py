"""Varied lists, held against a plain reading of the rule."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from reckeeper.serving.diversity import likeness_of_categories, varied

NAMES = ("drama", "war", "comedy")


@st.composite
def asked(draw):
    """Draw a ranked list with ties, how alike its items are, their categories and what is asked."""
    n_items = draw(st.integers(1, 9))
    value = st.sampled_from([-1.0, 0.0, 0.5, 0.5, 2.0, 3.0])
    scores = sorted(draw(st.lists(value, min_size=n_items, max_size=n_items)), reverse=True)
    n_pool = draw(st.integers(0, n_items))
    cells = draw(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=81, max_size=81))
    likeness = np.array(cells).reshape(9, 9)[:n_pool, :n_pool]
    likeness = np.maximum(likeness, likeness.T) * (1 - np.eye(n_pool))
    item = st.lists(st.sampled_from(NAMES), max_size=3, unique=True)
    categories = draw(st.lists(item, min_size=n_items, max_size=n_items))
    return (
        np.array(scores),
        likeness,
        categories,
        draw(st.sampled_from([0.0, 0.25, 0.5, 1.0])),
        draw(st.sampled_from([None, 1, 2, 5])),
        draw(st.integers(1, 10)),
    )


def naive(scores, likeness, categories, diversity, per_category, n):
    n_pool = len(likeness) if diversity else 0
    low, high = (min(scores[:n_pool]), max(scores[:n_pool])) if n_pool else (0.0, 0.0)

    def gain(place, chosen):
        relevance = (scores[place] - low) / (high - low) if high > low else 0.0
        closest = max((likeness[place, other] for other in chosen), default=0.0)
        return (1 - diversity) * relevance - diversity * closest

    def may_come(place, chosen):
        full = [
            name
            for name in categories[place]
            if sum(name in categories[other] for other in chosen) == per_category
        ]
        return place not in chosen and not full

    chosen = []
    while len(chosen) < n:
        pool = [place for place in range(n_pool) if may_come(place, chosen)]
        rest = [place for place in range(n_pool, len(scores)) if may_come(place, chosen)]
        if pool:
            chosen.append(max(pool, key=lambda place: (gain(place, chosen), -place)))
        elif rest:
            chosen.append(rest[0])
        else:
            break
    return chosen


@given(asked())
def test_a_varied_list_is_the_rule_read_plainly(given):
    scores, likeness, categories, diversity, per_category, n = given
    made = varied(
        scores,
        n=n,
        likeness=likeness,
        diversity=diversity,
        categories=categories,
        per_category=per_category,
    )
    assert made == naive(*given)
    longer = varied(
        scores,
        n=n + 3,
        likeness=likeness,
        diversity=diversity,
        categories=categories,
        per_category=per_category,
    )
    assert longer[:n] == made


def test_what_is_like_the_best_makes_room_the_more_the_more_is_asked():
    """Items 0, 1 and 2 are all but the same, and so are 3 and 4."""
    scores = np.array([1.0, 0.9, 0.8, 0.5, 0.4, 0.0])
    likeness = np.zeros((6, 6))
    likeness[:3, :3] = likeness[3:5, 3:5] = 0.9
    np.fill_diagonal(likeness, 0.0)
    lists = [varied(scores, n=3, likeness=likeness, diversity=d) for d in (0.0, 0.2, 0.6, 1.0)]
    assert lists == [[0, 1, 2], [0, 1, 2], [0, 3, 5], [0, 3, 5]]
    assert varied(scores, n=9, likeness=likeness, diversity=0.6) == [0, 3, 5, 1, 2, 4]


def test_likeness_of_categories_is_the_share_in_common():
    likeness = likeness_of_categories([("a", "b"), ("a",), (), ("b", "a"), ("c",)])
    expected = np.zeros((5, 5))
    expected[0, 1] = expected[1, 3] = 0.5
    expected[0, 3] = 1.0
    np.testing.assert_allclose(likeness, expected + expected.T)
