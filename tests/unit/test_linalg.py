"""The kernels, held against plain Python, dense LAPACK and planted spectra."""

import hashlib
import itertools
import sys
import threading

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from scipy import sparse
from threadpoolctl import threadpool_limits

from reckeeper import linalg
from reckeeper.errors import DataError

few_values = st.sampled_from([-1.0, -0.0, 0.0, 0.5, 1.0, 1e300])
scores = st.lists(few_values | st.floats(allow_nan=False, allow_infinity=False), max_size=40)

# Shapes by the way that a decomposition takes: LAPACK for the whole matrix,
# LAPACK for its Gram matrix, the block iteration.
SMALL, GRAM, LARGE = (60, 40), (14_000, 301), (7_200, 150)


@pytest.fixture(autouse=True, scope="module")
def one_blas_thread():
    """Spare the many small products here waits for each other."""
    with threadpool_limits(1, user_api="blas"):
        yield


# --- top k


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


@pytest.mark.parametrize("k", [1, 3, 20, 40])
@pytest.mark.parametrize("n_items", [640, 1300])
def test_top_k_of_wide_rows_is_a_stable_sort_of_each(n_items, k):
    random = np.random.default_rng(n_items)
    scores = random.integers(0, 300, size=(30, n_items)).astype(np.float32)
    scores[:10] *= random.random((10, n_items)) < 0.02  # fewer than a list has are above zero
    scores[10] = 1.0
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(linalg.top_k_rows(scores, k), expected)


@given(data=st.data())
def test_top_k_of_rows_is_a_stable_sort_of_each(data):
    n_rows, n_items = data.draw(st.integers(0, 6)), data.draw(st.integers(0, 9))
    k = data.draw(st.integers(1, 12))
    values = st.sampled_from([-2.0, -0.0, 0.0, 0.5, 1.0]) | st.floats(-1024, 1024, width=32)
    row = st.lists(values, min_size=n_items, max_size=n_items)
    scores = np.array(data.draw(st.lists(row, min_size=n_rows, max_size=n_rows)), np.float32)
    scores = scores.reshape(n_rows, n_items)
    pairs = itertools.product(range(n_rows), range(n_items))
    excluded = data.draw(st.lists(st.sampled_from(list(pairs)))) if scores.size else []
    expected = np.full((n_rows, k), -1)
    for row in range(n_rows):
        allowed = [item for item in range(n_items) if (row, item) not in excluded]
        best = sorted(allowed, key=lambda item: (-scores[row, item], item))[:k]
        expected[row, : len(best)] = best
    # An entry is seen whatever it weighs: zero, too.
    rows, items = zip(*excluded, strict=True) if excluded else ([], [])
    seen = sparse.csr_array((np.zeros(len(rows)), (rows, items)), shape=scores.shape)

    top = linalg.top_k_rows(scores, k, exclude=seen, n_threads=data.draw(st.sampled_from([1, 2])))

    assert top.dtype == np.int64
    np.testing.assert_array_equal(top, expected)


@given(data=st.data())
def test_top_k_that_rows_share_is_that_of_each_row(data):
    n_rows, n_items = data.draw(st.integers(0, 6)), data.draw(st.integers(1, 12))
    k = data.draw(st.integers(1, 14))
    value = st.sampled_from([-np.inf, -2.0, 0.0, 0.5, 1.0])
    scores = np.array(data.draw(st.lists(value, min_size=n_items, max_size=n_items)))
    is_seen = data.draw(st.lists(st.booleans(), min_size=n_rows * n_items,
                                 max_size=n_rows * n_items))  # fmt: skip
    seen = sparse.csr_array(np.array(is_seen, dtype=float).reshape(n_rows, n_items))
    expected = linalg.top_k_rows(np.tile(scores, (n_rows, 1)), k, exclude=seen)

    top = linalg.top_k_shared(scores, k, exclude=seen)

    assert top.dtype == np.int64
    np.testing.assert_array_equal(top, expected)


def test_top_k_of_many_rows_does_not_depend_on_threads():
    random = np.random.default_rng(1)
    scores = random.integers(0, 50, (3_000, 1_000)).astype(np.float32)
    seen = sparse.random_array(scores.shape, density=0.2, rng=random, format="csr")
    expected = scores.copy()
    expected[seen.nonzero()] = -np.inf
    expected = np.argsort(-expected, axis=1, kind="stable")[:, :20]
    for n_threads in (1, 2, None):
        top = linalg.top_k_rows(scores.copy(), 20, exclude=seen, n_threads=n_threads)
        np.testing.assert_array_equal(top, expected)


def test_without_exclusion_scores_are_only_read():
    scores = np.random.default_rng(1).standard_normal((5, 7))
    scores.flags.writeable = False
    expected = np.argsort(-scores, axis=1)[:, :3]
    np.testing.assert_array_equal(linalg.top_k_rows(scores, 3), expected)


@given(
    n_rows=st.integers(0, 300),
    n_columns=st.integers(0, 50),
    itemsize=st.sampled_from([1, 4, 8]),
    limit=st.integers(1, 5_000),
)
def test_blocks_of_rows_cover_all_and_keep_the_limit(n_rows, n_columns, itemsize, limit):
    blocks = list(linalg.row_blocks(n_rows, n_columns, itemsize=itemsize, limit_bytes=limit))
    covered = [row for block in blocks for row in range(block.start, block.stop)]
    assert covered == list(range(n_rows))
    for block in blocks:
        height = block.stop - block.start
        assert height == 1 or height * n_columns * itemsize <= limit
    # No smaller than they need be: all but the last have one height.
    assert len({block.stop - block.start for block in blocks[:-1]}) <= 1
    assert len(blocks) <= 1 or (blocks[0].stop + 1) * max(n_columns * itemsize, 1) > limit


# --- sparse products


def long_tailed(m, n, *, nnz, seed):
    """Return a matrix whose rows and columns differ much in length; some are empty."""
    random = np.random.default_rng(seed)
    rows = (m * random.random(nnz) ** 3).astype(int)
    columns = (n * random.random(nnz) ** 2).astype(int)
    return sparse.csr_array((random.random(nnz, dtype=np.float32), (rows, columns)), shape=(m, n))


@pytest.mark.parametrize(
    "matrix",
    [
        long_tailed(500, 300, nnz=9_000, seed=0),
        sparse.csr_array((4, 3), dtype=np.float32),
        sparse.csr_array((0, 3), dtype=np.float32),
        sparse.csr_array(np.eye(1, dtype=np.float32)),
        sparse.csr_array(np.eye(9, dtype=np.float32)[[8] * 40 + [0]]),
    ],
    ids=["long-tailed", "empty", "no rows", "one cell", "tall"],
)
@pytest.mark.parametrize("n_threads", [1, 2, 7, None])
def test_a_sparse_product_has_the_bits_of_scipys(matrix, n_threads):
    dense = np.random.default_rng(1).standard_normal((matrix.shape[1], 5)).astype(np.float32)
    operator = linalg.SparseOperator(matrix, n_threads=n_threads)
    for laid_out in (dense, np.asfortranarray(dense), dense[:, ::2], dense[:, :0]):
        product = operator @ laid_out
        assert product.dtype == np.float32
        np.testing.assert_array_equal(product, matrix @ np.ascontiguousarray(laid_out))


@pytest.mark.parametrize("terms_at_once", [1 << 19, 50])
@pytest.mark.parametrize("n_threads", [1, 2, None])
@pytest.mark.parametrize(
    ("rows", "matrix"),
    [
        (long_tailed(70, 300, nnz=3_000, seed=2), long_tailed(300, 500, nnz=9_000, seed=3)),
        (long_tailed(1, 300, nnz=80, seed=2), long_tailed(300, 500, nnz=9_000, seed=3)),
        (sparse.csr_array((3, 4), dtype=np.float32), sparse.csr_array((4, 2), dtype=np.float32)),
        (sparse.csr_array((0, 4), dtype=np.float32), sparse.csr_array((4, 0), dtype=np.float32)),
    ],
    ids=["long-tailed", "one row", "empty", "nothing"],
)
def test_a_dense_product_is_scipys(rows, matrix, n_threads, terms_at_once, monkeypatch):
    monkeypatch.setattr(linalg.products, "_TERMS_AT_ONCE", terms_at_once)
    product = linalg.dense_product(rows, matrix, n_threads=n_threads)
    assert product.dtype == np.float32
    # Where a row's terms are many, they are added in several sums.
    np.testing.assert_allclose(product, (rows @ matrix).toarray(), rtol=1e-5, atol=1e-6)
    stored = linalg.sparse_product(rows, matrix)
    assert stored.dtype == np.float32
    assert stored.nnz == (rows @ matrix).nnz
    assert stored.has_canonical_format
    np.testing.assert_allclose(stored.toarray(), product, rtol=1e-5, atol=1e-6)
    if terms_at_once > 50:
        alone = [linalg.dense_product(rows[[row]], matrix)[0] for row in range(rows.shape[0])]
        assert np.array_equal(np.array(alone).reshape(product.shape), product)


def test_what_is_made_in_order_is_begun_a_little_ahead():
    taken, release = [], threading.Event()

    def tasks():
        for number in range(50):
            taken.append(number)
            yield number

    def make(number):
        assert number or release.wait(10)
        linalg.parallel.on_threads(seen.append, [threading.get_ident()] * 2, n_threads=2)
        return number, threading.get_ident()

    seen = []
    made = linalg.parallel.in_order(make, tasks(), n_threads=2)
    release.set()
    assert next(made)[0] == 0
    assert len(taken) <= 6
    rest = list(made)
    assert [number for number, _ in rest] == list(range(1, 50))
    assert {thread for _, thread in rest} <= set(seen)
    assert threading.get_ident() not in seen
    assert len(set(seen)) <= 2  # none of the threads took others


def test_what_a_task_in_order_raises_ends_the_rest():
    begun = []

    def make(number):
        begun.append(number)
        if number == 3:
            raise DataError("three")

    with pytest.raises(DataError, match="three"):
        list(linalg.parallel.in_order(make, range(100), n_threads=2))
    assert len(begun) < 20


@pytest.mark.parametrize("n_threads", [1, 2, 8])
def test_blocks_of_an_operator_weigh_the_same(n_threads):
    matrix = long_tailed(5_000, 300, nnz=90_000, seed=0)
    blocks = linalg.SparseOperator(matrix, n_threads=n_threads)._blocks
    assert len(blocks) == 4 * n_threads
    assert all(np.shares_memory(part.data, matrix.data) for _, part in blocks)
    heaviest_row = int(np.diff(matrix.indptr).max())
    for _, part in blocks:
        assert abs(part.nnz - matrix.nnz / len(blocks)) <= heaviest_row


def test_sparse_products_run_on_two_threads_at_once():
    # Each of SciPy's products waits for a second to begin: a single thread would wait in vain.
    both = threading.Barrier(2, timeout=60)
    begun = set()

    def watch(frame, event, function):
        if event == "c_call" and function.__name__ == "csr_matvecs":
            thread = threading.get_ident()
            if thread not in begun:
                begun.add(thread)
                both.wait()

    operator = linalg.SparseOperator(long_tailed(500, 300, nnz=9_000, seed=0), n_threads=2)
    before = threading.getprofile()
    threading.setprofile(watch)
    try:
        operator @ np.ones((300, 4), dtype=np.float32)
    finally:
        threading.setprofile(before)
    assert len(begun) == 2


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("shape", [(5, 9), (5_000, 900)], ids=["small", "large"])
def test_a_value_that_is_not_finite_is_refused_with_its_position(bad, shape):
    rows, columns = [0, 3, 3, 4], [8, 7, 8, 0]
    matrix = sparse.csr_array(([1.0, bad, 2.0, np.nan], (rows, columns)), shape=shape)
    with pytest.raises(DataError, match=rf"{bad} at row 3, column 7\b"):
        linalg.truncated_svd(matrix, 2)
    with pytest.raises(DataError, match="row 3, column 7"):
        linalg.check_finite(matrix)


def test_all_finite_is_accepted():
    linalg.check_finite(sparse.csr_array(np.array([[0.0, -1e300], [1e-300, 0.0]])))
    linalg.check_finite(sparse.csr_array((0, 5)))


# --- the decomposition


def orthonormal(n, k, random):
    return np.linalg.qr(random.standard_normal((n, k)))[0]


def planted(m, n, values, *, seed=0):
    """Return a dense matrix with given singular values."""
    random = np.random.default_rng(seed)
    k = len(values)
    return (orthonormal(m, k, random) * values) @ orthonormal(n, k, random).T


def sparsely_planted(m, n, values, *, seed=0):
    """Return a sparse matrix with given singular values: up to four entries in a row."""
    random = np.random.default_rng(seed)
    k = len(values)

    def turned(size):
        fours = [orthonormal(4, 4, random) for _ in range(max(1, -(-k // 4)))]
        whole = sparse.block_diag(fours, format="csr")
        padded = sparse.csr_array((whole.data, whole.indices, whole.indptr), whole.shape)
        padded.resize((size, padded.shape[1]))
        return padded[random.permutation(size)][:, :k]

    return sparse.csr_array(turned(m) @ sparse.diags_array(values) @ turned(n).T)


def norm_of_columns(matrix):
    return np.sqrt((matrix**2).sum(axis=0))


def check(matrix, found, k, *, values=None):
    """Hold a decomposition against LAPACK's singular values, or those that are given."""
    dense = sparse.csr_array(matrix, dtype=np.float64)
    m, n = dense.shape
    k = min(k, m, n)
    largest = np.abs(dense.data).max(initial=0.0) or 1.0
    dense.data /= largest
    # Empty rows and columns change no singular value.
    rows, columns = (np.unique(index) for index in dense.nonzero())
    _, true_values, compact = np.linalg.svd(dense[rows][:, columns].toarray(), full_matrices=False)
    values = true_values if values is None else np.sort(values)[::-1] / largest
    values = np.concatenate([values, np.zeros(max(0, k + 1 - len(values)))])
    top = values[0] or 1.0

    assert found.components.shape == (k, n)
    assert found.components.dtype == np.float32
    assert found.singular_values.dtype == np.float64
    assert (np.diff(found.singular_values) <= 0).all()
    assert (found.singular_values >= 0).all()
    vectors = found.components.T.astype(np.float64)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(k), atol=1e-5)
    # Single precision knows nothing below 1e-6 of the largest.
    tolerances = {"rtol": 1e-4, "atol": 1e-6 * top}
    found_values = found.singular_values / largest
    np.testing.assert_allclose(found_values, values[:k], **tolerances)
    images = dense @ vectors
    np.testing.assert_allclose(norm_of_columns(images), values[:k], **tolerances)
    # What it says of its own error is true.
    left_over = norm_of_columns(dense.T @ images - vectors * found_values**2).max() / top**2
    assert left_over <= 1.1 * found.residual + 3e-6
    # Davis and Kahan: so large can the angle to the true subspace be.
    gap = (values[k - 1] ** 2 - values[k] ** 2) / top**2
    if k < min(m, n) and gap > 1e-2:
        true = np.zeros((n, k))
        true[columns] = compact[:k].T
        sine = np.linalg.norm(vectors - true @ (true.T @ vectors), ord=2)
        assert sine <= np.sqrt(k) * (left_over + 1e-6) / gap


def decompose(matrix, k, **options):
    options = {"tolerance": 1e-5, "seed": 3, **options}
    return linalg.truncated_svd(sparse.csr_array(matrix), k, **options)


def steps_of(matrix, k, **options):
    """Return the progress that is reported, and the decomposition."""
    progress = []
    found = decompose(matrix, k, on_progress=progress.append, **options)
    return progress, found


def with_empty(m, n, random):
    dense = random.standard_normal((m, n)) * (random.random((m, n)) < 0.2)
    return dense * (random.random((m, 1)) < 0.4) * (random.random(n) < 0.5)


def with_duplicates(m, n, random):
    few = random.standard_normal((m, n // 5)) * (random.random((m, n // 5)) < 0.2)
    return np.repeat(few, 5, axis=1)


def one_cell(m, n, random):
    matrix = np.zeros((m, n))
    matrix[m // 2, n // 3] = -7.0
    return matrix


HARD = {
    "geometric": lambda m, n, _: planted(m, n, 0.8 ** np.arange(40)),
    "steep": lambda m, n, _: planted(m, n, 0.5 ** np.arange(40)),
    "flat with a gap": lambda m, n, _: planted(m, n, np.r_[np.ones(12), np.full(n - 12, 0.3)]),
    "clusters": lambda m, n, _: planted(
        m, n, np.r_[np.ones(10), np.full(10, 0.5), np.full(n - 20, 0.495)]
    ),
    "one large": lambda m, n, _: planted(m, n, np.r_[1.0, 1e-2 * 0.9 ** np.arange(n - 1)]),
    "three scales": lambda m, n, _: planted(
        m, n, np.r_[np.ones(3), np.full(9, 1e-2), np.full(n - 12, 1e-3)]
    ),
    "rank of one": lambda m, n, _: np.ones((m, n)),
    "rank of five": lambda m, n, _: planted(m, n, np.arange(5.0, 0, -1)),
    "one cell": one_cell,
    "all equal": lambda m, n, _: planted(m, n, np.ones(n)),
    "identity": lambda m, n, _: np.eye(m, n),
    "permutation": lambda m, n, random: np.eye(m, n)[random.permutation(m)],
    "all zero": lambda m, n, _: np.zeros((m, n)),
    "noise": lambda m, n, random: random.standard_normal((m, n)),
    "counts": lambda m, n, random: random.poisson(0.1, (m, n)),
    "empty rows and columns": with_empty,
    "duplicate columns": with_duplicates,
    "huge": lambda m, n, _: 1e30 * planted(m, n, 0.8 ** np.arange(40)),
    "tiny": lambda m, n, _: 1e-30 * planted(m, n, 0.8 ** np.arange(40)),
    "mixed": lambda m, n, random: (
        10.0 ** random.uniform(-30, 30, (m, n)) * (random.random((m, n)) < 0.05)
    ),
}


@pytest.mark.parametrize("hard", HARD)
@pytest.mark.parametrize("is_wide", [False, True], ids=["tall", "wide"])
@pytest.mark.parametrize(("shape", "k"), [(SMALL, 12), (SMALL, 40), (LARGE, 30)])
def test_hard_cases_against_lapack(hard, is_wide, shape, k):
    random = np.random.default_rng(5)
    if shape == LARGE:
        matrix = np.zeros(shape)
        matrix[random.permutation(shape[0])[:600]] = HARD[hard](600, shape[1], random)
    else:
        matrix = HARD[hard](*shape, random)
    matrix = sparse.csr_array(matrix.T if is_wide else matrix)
    progress, found = steps_of(matrix, k)
    check(matrix, found, k)
    if shape == LARGE and hard != "all zero":
        assert len(progress) > 5, "this was to test the iteration"
    if hard == "all zero":
        assert not found.singular_values.any()


@pytest.mark.parametrize("hard", ["rank of five", "one cell", "empty", "huge", "tiny"])
@pytest.mark.parametrize("is_wide", [False, True], ids=["tall", "wide"])
def test_nearly_all_components_of_a_large_matrix(hard, is_wide):
    m, n = GRAM
    scale = {"huge": 1e30, "tiny": 1e-30}.get(hard, 1.0)
    if hard == "rank of five":
        matrix = sparsely_planted(m, n, np.arange(5.0, 0, -1))
    elif hard == "one cell":
        matrix = sparse.csr_array(([-7.0], ([9], [5])), shape=GRAM)
    else:
        matrix = scale * long_tailed(m, n, nnz=3_000, seed=2).astype(np.float64)
    matrix = sparse.csr_array(matrix.T if is_wide else matrix)
    check(matrix, decompose(matrix, 160), 160)


# Ratios of singular values that a process of Lanczos finds hard: multiplicities
# above its block, of the largest and within; and ranks below k.
SPECTRA = {
    "all equal": np.ones(2_500),
    "equal at the top": np.r_[np.ones(30), 0.9 * 0.995 ** np.arange(2_000)],
    "equal twice": np.r_[np.ones(40), np.full(40, 0.8), 0.7 * 0.97 ** np.arange(500)],
    "equal but for one": np.r_[2.0, np.ones(400)],
    "rank below k": np.linspace(1, 0.5, 17),
    "flat with a gap": np.r_[np.ones(24), np.full(2_000, 0.1)],
    "geometric": 0.9 ** np.arange(200),
}


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("is_wide", [False, True], ids=["tall", "wide"])
def test_spectra_planted_in_large_sparse_matrices(spectrum, is_wide):
    values = SPECTRA[spectrum]
    matrix = sparsely_planted(3_000, 2_500, values, seed=1)
    matrix = sparse.csr_array(matrix.T if is_wide else matrix)
    progress, found = steps_of(matrix, 24)
    assert len(progress) > 5
    check_planted(matrix, found, 24, values)


def n_products(matrix, k):
    """Count the calls of SciPy's sparse product that a decomposition makes."""
    counted = itertools.count()

    def count(frame, event, function):
        if event == "c_call" and function.__name__ == "csr_matvecs":
            next(counted)

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        decompose(matrix, k, n_threads=1)
    finally:
        sys.setprofile(before)
    return next(counted)


@pytest.mark.parametrize("rank", [1, 5, 17])
def test_a_rank_below_k_costs_no_more_than_a_full_one(rank):
    matrix, poor = (
        sparsely_planted(3_000, 2_500, values, seed=1)
        for values in (0.9 ** np.arange(200), np.linspace(1, 0.5, rank))
    )
    assert n_products(poor, 24) <= 1.5 * n_products(matrix, 24)


def test_equal_blocks_and_equal_columns_in_large_sparse_matrices():
    blocks = sparse.block_diag([np.ones((4, 3))] * 400, format="csr")
    check_planted(blocks, decompose(blocks, 40), 40, np.full(400, np.sqrt(12)))
    columns = long_tailed(2_000, 20, nnz=3_000, seed=4)
    repeated = sparse.csr_array(sparse.hstack([columns] * 50))
    values = np.linalg.svd(columns.toarray().astype(np.float64), compute_uv=False) * np.sqrt(50)
    check_planted(repeated, decompose(repeated, 30), 30, values)


def check_planted(matrix, found, k, values):
    """As `check`, without a dense copy: the gap's subspace is not compared."""
    assert found.components.shape == (k, matrix.shape[1])
    values = np.concatenate([values, np.zeros(k)])[:k]
    top = values[0]
    vectors = found.components.T.astype(np.float64)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(k), atol=1e-5)
    tolerances = {"rtol": 1e-4, "atol": 1e-6 * top}
    np.testing.assert_allclose(found.singular_values, values, **tolerances)
    images = matrix.astype(np.float64) @ vectors
    np.testing.assert_allclose(norm_of_columns(images), values, **tolerances)
    left_over = matrix.T @ images - vectors * found.singular_values**2
    assert norm_of_columns(left_over).max() / top**2 <= 1.1 * found.residual + 2e-6


@given(
    values=st.lists(st.sampled_from([0.0, 1e-4, 0.01, 0.3, 0.31, 0.99, 1.0]), max_size=60),
    k=st.integers(1, 20),
    seed=st.integers(0, 2**32 - 1),
    scale=st.sampled_from([1e-30, 1.0, 1e30]),
    is_wide=st.booleans(),
)
def test_generated_spectra(values, k, seed, scale, is_wide):
    matrix = scale * sparsely_planted(17_600, 60, np.array(values), seed=seed)
    matrix = sparse.csr_array(matrix.T if is_wide else matrix)
    check(matrix, decompose(matrix, k, seed=seed), k, values=scale * np.array(values))


entries = st.floats(-1e4, 1e4, width=32) | st.integers(-3, 3)


@given(
    data=st.data(),
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9)) | st.sampled_from([(60, 17_600)]),
    k=st.integers(1, 12),
    is_tall=st.booleans(),
)
def test_generated_matrices(data, shape, k, is_tall):
    m, n = shape[::-1] if is_tall else shape
    cells = st.tuples(st.integers(0, m - 1), st.integers(0, n - 1), entries)
    row, column, value = np.array(data.draw(st.lists(cells, max_size=40)) or [(0, 0, 0)]).T
    places = (row.astype(int), column.astype(int))
    matrix = sparse.csr_array((value, places), shape=(m, n))
    check(matrix, decompose(matrix, k), k)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (1, 2_000_000), (2_000_000, 1), (2, 3)])
def test_fewer_rows_or_columns_than_components(shape):
    matrix = sparse.random_array(shape, density=min(1.0, 5_000 / max(shape)), rng=3, format="csr")
    found = decompose(matrix, 5)
    assert len(found.singular_values) == min(shape)
    check(matrix, found, 5)


def test_no_rows_or_no_columns_have_no_components():
    for shape in [(0, 4), (4, 0), (0, 0)]:
        found = decompose(sparse.csr_array(shape), 3)
        assert found.components.shape == (0, shape[1])
        assert found.singular_values.tolist() == []


@pytest.mark.parametrize("k", [0, -2])
def test_fewer_than_one_component_is_refused(k):
    with pytest.raises(DataError, match=f"at least 1, not {k}"):
        decompose(np.eye(3), k)


def ratings(shape=LARGE, *, nnz=20_000):
    return long_tailed(*shape, nnz=nnz, seed=6)


@pytest.mark.parametrize("shape", [SMALL, GRAM, LARGE])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.int8])
@pytest.mark.parametrize("index_dtype", [np.int32, np.int64])
def test_the_matrix_is_only_read_whatever_its_types(shape, dtype, index_dtype):
    source = ratings(shape, nnz=2_000)
    parts = (
        np.minimum(np.ceil(source.data * 5), 100).astype(dtype),
        source.indices.astype(index_dtype),
        source.indptr.astype(index_dtype),
    )
    kept = [part.copy() for part in parts]
    matrix = sparse.csr_array(parts, shape=shape)
    k = 160 if shape == GRAM else 12
    found = linalg.truncated_svd(matrix, k, tolerance=1e-5)
    for after, before in zip((matrix.data, matrix.indices, matrix.indptr), kept, strict=True):
        assert after.dtype == before.dtype
        np.testing.assert_array_equal(after, before)
    plain = sparse.csr_array(source, copy=True)
    plain.data = np.minimum(np.ceil(source.data * 5), 100)
    same = linalg.truncated_svd(plain, k, tolerance=1e-5)
    np.testing.assert_array_equal(found.components, same.components)
    np.testing.assert_array_equal(found.singular_values, same.singular_values)


@pytest.mark.parametrize("shape", [SMALL, LARGE])
def test_unsorted_indices_and_stored_zeros_make_no_difference(shape):
    matrix = ratings(shape, nnz=2_000)
    mirrored = matrix[:, ::-1].tocsr()  # indices descend
    mirrored.indices = (shape[1] - 1 - mirrored.indices).astype(np.int32)
    mirrored.has_sorted_indices = False
    zeros = sparse.csr_array(([0.0] * 3, ([1, 1, 7], [3, 9, 5])), shape=shape, dtype=np.float32)
    for other in (mirrored, sparse.csr_array(matrix + zeros)):
        check(matrix, decompose(other, 12), 12)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_matrix_and_its_transpose_agree(seed):
    matrix = ratings()
    tall, wide = decompose(matrix, 12, seed=seed), decompose(matrix.T, 12, seed=seed)
    np.testing.assert_allclose(tall.singular_values, wide.singular_values, rtol=1e-5)
    # A v of the one spans what the other calls v.
    images = (matrix @ tall.components.T) / tall.singular_values
    assert np.linalg.norm(images - wide.components.T @ (wide.components @ images), ord=2) < 1e-3


def test_another_seed_gives_the_same_subspace():
    first, second = (decompose(ratings(), 12, seed=seed) for seed in (0, 1))
    assert not np.array_equal(first.components, second.components)
    cosines = np.linalg.svd(first.components @ second.components.T, compute_uv=False)
    np.testing.assert_allclose(cosines, 1.0, atol=1e-5)


def digest(found):
    return hashlib.sha256(
        found.components.tobytes() + found.singular_values.tobytes() + repr(found.residual).encode()
    ).hexdigest()


@pytest.mark.parametrize("is_wide", [False, True], ids=["tall", "wide"])
@pytest.mark.parametrize("tolerance", [1e-2, 1e-6])
def test_the_same_seed_gives_the_same_bits_on_any_number_of_threads(is_wide, tolerance):
    matrix = ratings().T.tocsr() if is_wide else ratings()
    first, *others = (
        digest(decompose(matrix, 20, tolerance=tolerance, n_threads=n_threads))
        for n_threads in (1, 1, 2, 3, None)
    )
    assert others == [first] * 4


FRESH = """
import importlib.util, sys
from threadpoolctl import threadpool_limits
spec = importlib.util.spec_from_file_location("tests_of_linalg", sys.argv[1])
tests = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tests)
with threadpool_limits(1, user_api="blas"):
    print(tests.digest(tests.decompose(tests.ratings(), 20)))
"""


def test_the_same_seed_gives_the_same_bits_in_another_process(start_python):
    process = start_python(FRESH, __file__)
    output, errors = process.communicate(timeout=120)
    assert output.strip() == digest(decompose(ratings(), 20)), errors


def harder():
    """Return a matrix that takes Lanczos and filtered iterations."""
    return sparsely_planted(2_000, 1_500, np.linspace(1, 0.5, 1_400), seed=2)


@pytest.mark.parametrize(
    ("matrix", "k", "tolerance"),
    [
        (np.eye(4), 2, 1e-3),
        (np.zeros((4, 3)), 2, 1e-3),
        (sparsely_planted(*GRAM, np.ones(3)), 160, 1e-3),
        (ratings(), 12, 1e-3),
        (ratings(), 12, 1e-9),
        (harder(), 24, 1e-3),
        (sparsely_planted(3_000, 2_500, SPECTRA["equal at the top"], seed=1), 24, 1e-6),
    ],
    ids=["small", "zero", "gram", "easy", "unreachable", "harder", "multiplicities"],
)
def test_progress_rises_from_zero_to_one_in_the_calling_thread(matrix, k, tolerance):
    threads = set()
    progress = []

    def report(fraction):
        threads.add(threading.get_ident())
        progress.append(fraction)

    decompose(matrix, k, tolerance=tolerance, on_progress=report)
    assert progress[0] >= 0
    assert progress == sorted(progress)
    assert progress[-1] == 1
    assert threads == {threading.get_ident()}


class Cancelled(Exception):
    """Raised in a callback."""


@pytest.mark.parametrize("step", [1, 7, 22])
def test_what_progress_raises_ends_the_work_and_leaves_no_thread(step):
    before = set(threading.enumerate())
    calls = itertools.count(1)

    def report(fraction):
        if next(calls) == step:
            raise Cancelled

    with pytest.raises(Cancelled):
        decompose(harder(), 24, on_progress=report)
    assert next(calls) == step + 1
    assert set(threading.enumerate()) == before


@pytest.mark.parametrize("is_wide", [False, True], ids=["tall", "wide"])
def test_a_warm_start_gives_the_same_in_fewer_steps(is_wide):
    matrix = ratings()
    matrix = sparse.csr_array(matrix.T if is_wide else matrix)
    k = 12
    cold_steps, cold = steps_of(matrix, k)
    changed = matrix.copy()
    changed.data[::50] *= 1.1
    warm_steps, warm = steps_of(changed, k, start=cold.components)
    check(changed, warm, k)
    assert len(warm_steps) < len(cold_steps) / 2
    again_steps, again = steps_of(matrix, k, start=cold.components)
    np.testing.assert_allclose(again.singular_values, cold.singular_values, rtol=1e-5)
    assert len(again_steps) <= len(warm_steps)


@pytest.mark.parametrize("is_wide", [False, True], ids=["tall", "wide"])
@pytest.mark.parametrize("n_given", [0, 1, 12, 100])
def test_a_useless_start_does_no_harm(is_wide, n_given):
    matrix = ratings()
    matrix = sparse.csr_array(matrix.T if is_wide else matrix)
    # Too few or too many vectors, dependent ones, and some that the matrix maps to nothing.
    start = np.zeros((n_given, matrix.shape[1]))
    start[:, 0] = 1.0
    start[::3] = 0.0
    given = start.copy()
    check(matrix, decompose(matrix, 12, start=start, max_iterations=40), 12)
    np.testing.assert_array_equal(start, given)


@pytest.mark.parametrize("is_wide", [False, True], ids=["tall", "wide"])
@pytest.mark.parametrize("oversampling", [1.1, 1.3, 1.5])
def test_the_residual_is_true_and_under_the_tolerance(is_wide, oversampling):
    k = 100  # of a basis that is no multiple of its blocks
    values = 0.99 ** np.arange(800)
    matrix = sparsely_planted(1_400, 1_000, values, seed=3)
    matrix = sparse.csr_array(matrix.T if is_wide else matrix)
    wide_side = matrix if matrix.shape[0] > matrix.shape[1] else matrix.T
    residuals = []
    for tolerance in (3e-2, 1e-3, 1e-5):
        found = decompose(matrix, k, tolerance=tolerance, oversampling=oversampling)
        vectors = found.components.T.astype(np.float64)
        if is_wide:
            # Of the mirror: its left vectors are what the iteration worked on.
            vectors = (matrix @ vectors) / found.singular_values
        left_over = wide_side.T @ (wide_side @ vectors) - vectors * found.singular_values**2
        residual = norm_of_columns(left_over).max() / values[0] ** 2
        assert found.residual <= tolerance
        assert residual <= 1.1 * found.residual + 2e-6
        residuals.append(residual)
    assert residuals == sorted(residuals, reverse=True)
    np.testing.assert_allclose(found.singular_values, values[:k], rtol=1e-4)


def test_few_iterations_are_no_error_and_the_residual_tells():
    rough = decompose(harder(), 24, tolerance=1e-6, max_iterations=0)
    exact = decompose(harder(), 24, tolerance=1e-3)
    assert rough.residual > 1e-3 >= exact.residual
    assert (rough.singular_values <= exact.singular_values * (1 + 1e-5)).all()
    np.testing.assert_allclose(exact.singular_values, np.linspace(1, 0.5, 1_400)[:24], rtol=1e-3)
