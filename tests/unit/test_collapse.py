"""The collapse of a sparse and a low-rank part, held against the dense formula."""

import threading

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from scipy import sparse

from reckeeper import linalg
from reckeeper.linalg.collapse import collapse


def case(m, n, r, *, seed, density=0.1, added=True):
    random = np.random.default_rng(seed)
    matrix = sparse.random_array((m, n), density=density, rng=random, format="csr")
    extra = sparse.random_array((n, n), density=0.3 * density, rng=random, format="csr")
    extra.data -= 0.5
    return {
        "matrix": matrix.astype(np.float32),
        "tail": 0.7,
        "row_scale": random.uniform(0.5, 2.0, n),
        "column_scale": random.uniform(0.5, 2.0, n),
        "added": extra.astype(np.float32) if added else None,
        "left": random.standard_normal((r, n)).astype(np.float32),
        "right": random.standard_normal((r, n)).astype(np.float32),
    }


def dense(*, matrix, tail, row_scale, column_scale, added, left, right):
    items = matrix.toarray().astype(np.float64)
    product = tail * row_scale[:, None] * (items.T @ items) * column_scale
    product += left.T.astype(np.float64) @ right
    return product if added is None else product + added.toarray()


def check(found, expected, n_neighbours, *, rows=None):
    """Hold rows of W against the dense formula, whose ties may fall either way by rounding."""
    n_items = found.shape[1]
    assert found.format == "csr"
    assert found.dtype == np.float32
    assert found.indices.dtype == np.int32
    assert found.shape == (n_items, n_items)
    assert found.has_canonical_format or n_items == 0
    assert np.diff(found.indptr).max(initial=0) <= n_neighbours
    assert not found.diagonal().any()
    assert found.data.all()
    rows = range(n_items) if rows is None else rows
    rounding = 2e-5 * np.abs(expected).max(initial=0.0)
    for row, wanted in zip(rows, expected.copy(), strict=True):
        wanted[row] = 0.0
        part = slice(found.indptr[row], found.indptr[row + 1])
        columns, values = found.indices[part], found.data[part]
        np.testing.assert_allclose(values, wanted[columns], atol=rounding)
        left_out = np.abs(np.delete(wanted, columns)).max(initial=0.0)
        if len(columns) < n_neighbours:
            assert left_out <= rounding
        else:
            assert left_out <= np.abs(values).min() + rounding


@given(
    m=st.integers(1, 9),
    n=st.integers(1, 12),
    r=st.integers(0, 4),
    n_neighbours=st.integers(1, 15),
    tail=st.sampled_from([0.0, 0.3, 1.0]),
    added=st.booleans(),
    seed=st.integers(0, 999),
    n_threads=st.sampled_from([1, 2]),
)
def test_it_is_the_dense_formula_cut(m, n, r, n_neighbours, tail, added, seed, n_threads):
    parts = {**case(m, n, r, seed=seed, density=0.4, added=added), "tail": tail}
    found = collapse(**parts, n_neighbours=n_neighbours, n_threads=n_threads)
    check(found, dense(**parts), n_neighbours)


@pytest.mark.parametrize("r", [0, 16])
@pytest.mark.parametrize("n_neighbours", [1, 40, 2_000])
def test_many_items(r, n_neighbours):
    parts = case(400, 1_100, r, seed=1, density=0.02)
    found = collapse(**parts, n_neighbours=n_neighbours)
    check(found, dense(**parts), n_neighbours)


@pytest.mark.parametrize("r", [0, 6])
def test_of_equal_neighbours_the_smaller_columns_are_kept(r):
    found = collapse(
        sparse.csr_array(np.ones((4, 30), dtype=np.float32)),
        tail=1.0,
        row_scale=np.ones(30),
        column_scale=np.where(np.arange(30) % 2, 1.0, -1.0),  # equal by absolute value only
        left=np.zeros((r, 30), dtype=np.float32),
        right=np.zeros((r, 30), dtype=np.float32),
        n_neighbours=3,
    )
    expected = [[item for item in range(4) if item != row][:3] for row in range(30)]
    np.testing.assert_array_equal(found.indices.reshape(30, 3), expected)
    assert (np.abs(found.data) == 4).all()


def test_ten_thousand_equal_histories():
    n = 40
    found = collapse(
        sparse.csr_array(np.ones((10_000, n), dtype=np.float32)),
        tail=1e-4,
        row_scale=np.ones(n),
        column_scale=np.ones(n),
        left=np.full((1, n), 0.5, dtype=np.float32),
        right=np.ones((1, n), dtype=np.float32),
        n_neighbours=2,
    )
    np.testing.assert_allclose(found.data, 1.5, rtol=1e-4)
    indices = found.indices.reshape(n, 2)
    assert indices[:3].tolist() == [[1, 2], [0, 2], [0, 1]]
    assert (indices[3:] == [0, 1]).all()


@pytest.mark.parametrize("r", [0, 3])
def test_nothing_gives_nothing(r):
    parts = case(5, 7, r, seed=0, added=False)
    nothing = {**parts, "matrix": sparse.csr_array((5, 7), dtype=np.float32)}
    nothing["left"] = np.zeros((r, 7), dtype=np.float32)
    assert collapse(**nothing, n_neighbours=3).nnz == 0
    for n in (0, 1):
        parts = case(2, n, r, seed=0)
        assert collapse(**parts, n_neighbours=3).nnz == 0


def test_what_is_rounding_is_left_out():
    """Two groups of items without a user in common have nothing to say of each other."""
    random = np.random.default_rng(3)
    block = (random.random((40, 30)) < 0.3).astype(np.float32)
    matrix = sparse.block_diag([block, block[:, ::-1]], format="csr")
    values, vectors = np.linalg.eigh((matrix.T @ matrix).toarray().astype(np.float32))
    # Any rotation of equal directions is as good; this one mixes the two groups.
    turn = np.linalg.qr(random.standard_normal((60, 60)))[0].astype(np.float32)
    whole = (vectors * np.sqrt(np.maximum(values, 0))) @ turn
    found = collapse(
        sparse.csr_array(matrix),
        tail=0.5,
        row_scale=np.ones(60),
        column_scale=np.ones(60),
        left=np.ascontiguousarray(whole.T),
        right=np.ascontiguousarray(whole.T),
        n_neighbours=60,
    )
    assert not found[:30, 30:].nnz
    assert not found[30:, :30].nnz
    assert found.nnz > 1_000


@pytest.mark.parametrize("r", [0, 16])
def test_the_same_bits_on_any_number_of_threads_and_nothing_given_is_written_to(r):
    parts = case(400, 1_100, r, seed=1, density=0.02)
    kept = case(400, 1_100, r, seed=1, density=0.02)
    first, *others = (
        collapse(**parts, n_neighbours=40, n_threads=n_threads) for n_threads in (1, 2, 3)
    )
    for other in others:
        np.testing.assert_array_equal(other.data, first.data)
        np.testing.assert_array_equal(other.indices, first.indices)
        np.testing.assert_array_equal(other.indptr, first.indptr)
    for name in ("row_scale", "column_scale", "left", "right"):
        np.testing.assert_array_equal(parts[name], kept[name])
    for name in ("matrix", "added"):
        np.testing.assert_array_equal(parts[name].data, kept[name].data)
        np.testing.assert_array_equal(parts[name].indices, kept[name].indices)


class Cancelled(Exception):
    pass


@pytest.mark.parametrize("r", [0, 16])
def test_it_reports_progress_and_can_be_cancelled(r):
    parts = case(400, 2_600, r, seed=1, density=0.02)
    progress = []
    threads = set()

    def report(fraction):
        progress.append(fraction)
        threads.add(threading.get_ident())

    collapse(**parts, n_neighbours=40, n_threads=2, on_progress=report)
    assert len(progress) > 1
    assert progress == sorted(progress)
    assert progress[0] >= 0
    assert progress[-1] == 1
    assert threads == {threading.get_ident()}

    def cancel(fraction):
        raise Cancelled

    before = set(threading.enumerate())
    with pytest.raises(Cancelled):
        collapse(**parts, n_neighbours=40, n_threads=2, on_progress=cancel)
    assert set(threading.enumerate()) == before


def many_items(*, seed=2, r=6):
    """Return parts of more items than are made whole, long-tailed, the first 900 all equal."""
    n = 9_000
    parts = case(500, n, r, seed=seed, density=0.004)
    popularity = (np.random.default_rng(seed).permutation(n) + 20.0) ** -0.5
    popularity /= popularity.max()
    parts["left"] *= popularity.astype(np.float32)
    parts["right"] *= popularity.astype(np.float32)
    source = np.arange(n)
    source[:900] = 0
    for name in ("row_scale", "column_scale"):
        parts[name] = parts[name][source]
    for name in ("left", "right"):
        parts[name] = parts[name][:, source]
    return {**parts, "matrix": parts["matrix"].tocsc()[:, source].tocsr()}


def test_in_a_large_catalogue_neighbours_of_the_sparse_parts_are_never_missed():
    parts = many_items()
    n_neighbours = 30
    found = collapse(**parts, n_neighbours=n_neighbours)
    assert found.has_canonical_format
    assert (np.diff(found.indptr) == n_neighbours).all()
    rows = np.r_[0:100, np.random.default_rng(0).choice(9_000, 300)]
    items = parts["matrix"].tocsc()
    together = (items[:, rows].T @ items).toarray()
    exact = 0.7 * parts["row_scale"][rows, None] * together * parts["column_scale"]
    extra = parts["added"][rows].toarray()
    exact += extra + parts["left"][:, rows].T.astype(np.float64) @ parts["right"]
    exact[np.arange(400), rows] = 0.0
    values = found[rows].toarray()
    kept = values != 0
    np.testing.assert_allclose(values[kept], exact[kept], atol=1e-5)
    sizes = np.abs(exact)
    border = np.partition(sizes, -n_neighbours, axis=1)[:, [-n_neighbours]]
    wanted = sizes > border * (1 + 1e-4)
    assert not (wanted & ((together != 0) | (extra != 0)) & ~kept).any()
    assert (wanted & kept).sum() >= 0.99 * wanted.sum()


def test_in_a_large_catalogue_an_item_of_which_nothing_is_known_has_no_neighbours():
    parts = many_items()
    unknown = [3, 5_000]
    known = np.ones(9_000, dtype=np.float32)
    known[unknown] = 0.0
    scaled = {name: parts[name] * known for name in ("left", "right", "row_scale", "column_scale")}
    keep = sparse.diags_array(known, format="csr")
    added = (keep @ parts["added"] @ keep).tocsr().astype(np.float32)
    found = collapse(**{**parts, **scaled, "added": added}, n_neighbours=5)
    counts = np.diff(found.indptr)
    assert not counts[unknown].any()
    assert (np.delete(counts, unknown) == 5).all()
    assert not np.isin(found.indices, unknown).any()


@pytest.mark.parametrize(
    ("low_rank", "is_signed", "terms_at_once"),
    [
        ("none", False, 1 << 19),
        ("of few columns", False, 1 << 19),
        ("of few columns", False, 9_500),
        ("of all columns", False, 1 << 19),
        ("of few columns", True, 1 << 19),
    ],
)
def test_rows_that_the_sparse_parts_fill_are_exact(monkeypatch, low_rank, is_signed, terms_at_once):
    """One user has everything, so each item goes with every other: all rows are made whole.

    A bound by lengths does not pay where all are the same.
    """
    monkeypatch.setattr(linalg.collapse, "_BOUNDED_FROM", 4_096)
    monkeypatch.setattr(linalg.products, "_TERMS_AT_ONCE", terms_at_once)
    parts = many_items()
    if low_rank == "none":
        parts["left"][:] = 0.0
    if low_rank == "of all columns":
        parts["right"] /= np.linalg.norm(parts["right"], axis=0)
    if not is_signed:
        parts["added"] = abs(parts["added"])
    parts["matrix"] = sparse.vstack(
        [parts["matrix"], sparse.csr_array(np.ones((1, 9_000), dtype=np.float32))], format="csr"
    )
    found = collapse(**parts, n_neighbours=30)
    assert found.has_canonical_format
    rows = np.random.default_rng(0).choice(9_000, 200)
    items = parts["matrix"].tocsc()
    exact = 0.7 * parts["row_scale"][rows, None] * (items[:, rows].T @ items).toarray()
    exact *= parts["column_scale"]
    exact += parts["added"][rows].toarray()
    exact += parts["left"][:, rows].T.astype(np.float64) @ parts["right"]
    exact[np.arange(200), rows] = 0.0
    values = found[rows].toarray()
    kept = values != 0
    np.testing.assert_allclose(values[kept], exact[kept], atol=1e-5)
    border = np.partition(np.abs(exact), -30, axis=1)[:, [-30]]
    assert not ((np.abs(exact) > border * (1 + 1e-4)) & ~kept).any()
