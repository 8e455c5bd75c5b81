"""The kernels, held against plain Python."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from reckeeper import linalg

few_values = st.sampled_from([-1.0, -0.0, 0.0, 0.5, 1.0, 1e300])
scores = st.lists(few_values | st.floats(allow_nan=False, allow_infinity=False), max_size=40)


@given(data=st.data(), scores=scores, k=st.integers(1, 50))
def test_top_k_is_a_stable_sort(data, scores, k):
    exclude = data.draw(st.lists(st.sampled_from(range(len(scores))))) if scores else []
    chosen = linalg.top_k(np.array(scores), k, exclude=np.array(exclude, dtype=np.int64))
    candidates = [index for index in range(len(scores)) if index not in exclude]
    assert chosen.tolist() == sorted(candidates, key=lambda index: (-scores[index], index))[:k]


@pytest.mark.parametrize("k", [1, 3, 5, 6, 100])
def test_of_equal_scores_the_smaller_index_comes_first(k):
    chosen = linalg.top_k(np.array([1.0, 2.0, 1.0, 2.0, 1.0, 1.0]), k, exclude=np.array([], int))
    assert chosen.tolist() == [1, 3, 0, 2, 4, 5][:k]


def test_all_excluded_gives_none():
    assert linalg.top_k(np.ones(4), 2, exclude=np.arange(4)).tolist() == []


def test_scores_are_left_as_they_were():
    scores = np.array([3.0, 1.0, 2.0])
    linalg.top_k(scores, 2, exclude=np.array([0]))
    assert scores.tolist() == [3.0, 1.0, 2.0]
