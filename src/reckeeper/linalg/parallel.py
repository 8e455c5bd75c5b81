"""Work on several cores: tasks on threads, rows in blocks, sparse products."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from scipy import sparse
from threadpoolctl import threadpool_limits

_Task = TypeVar("_Task")
_Made = TypeVar("_Made")

_here = threading.local()
"""Has `is_one_of_many` on threads that have the cores to share: what they do takes one."""


def n_cores() -> int:
    """Return on how many cores this process may run."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # where the system has no such call
        return os.cpu_count() or 1


def on_threads(
    function: Callable[[_Task], None],
    tasks: Sequence[_Task],
    *,
    n_threads: int | None,
    report: Callable[[float], None] = lambda _: None,
) -> None:
    """Call a function on each task, on several threads; what it raises is raised here.

    Within such a task, and within one of `in_order`, it takes no further threads. `report` is
    called on the caller's thread with the fraction done; where it raises, what has not begun is
    left undone.
    """
    n_threads = min(n_threads or n_cores(), len(tasks))
    if n_threads <= 1 or hasattr(_here, "is_one_of_many"):
        for n_done, task in enumerate(tasks, 1):
            function(task)
            report(n_done / len(tasks))
        return
    pool = _pool(n_threads)
    try:
        for n_done, _ in enumerate(pool.map(function, tasks), 1):
            report(n_done / len(tasks))
    finally:
        pool.shutdown(cancel_futures=True)


def on_own_cores(
    function: Callable[[_Task], None],
    tasks: Sequence[_Task],
    *,
    report: Callable[[float], None] = lambda _: None,
) -> None:
    """Call a function on each task, on several threads, with dense products on one core each.

    For tasks that are large and apart. The threads of dense products wait
    busily: where cores are scarce, that costs far more time than it saves.
    """
    with threadpool_limits(1, user_api="blas"):
        on_threads(function, tasks, n_threads=None, report=report)


def in_order(
    function: Callable[[_Task], _Made], tasks: Iterable[_Task], *, n_threads: int | None = None
) -> Iterator[_Made]:
    """Yield what a function makes of each task, in their order, made on several threads.

    For tasks that are large and apart: each has dense products on one core. Few are begun, and
    taken from `tasks`, ahead of what was asked for, so that neither the tasks nor what is made
    need to fit in memory. What the function raises is raised here; what has not begun then, or
    when nobody asks for more, is left undone.

    Parameters
    ----------
    function : callable
    tasks : iterable
        Taken on the caller's thread.
    n_threads : int, optional
        All cores by default.
    """
    n_threads = n_threads or n_cores()
    waiting: deque[Future[_Made]] = deque()
    with threadpool_limits(1, user_api="blas"):
        pool = _pool(n_threads)
        try:
            for task in tasks:
                waiting.append(pool.submit(function, task))
                if len(waiting) > 2 * n_threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _pool(n_threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n_threads, initializer=setattr, initargs=(_here, "is_one_of_many", 1))


def row_blocks(
    n_rows: int, n_columns: int, *, itemsize: int = 4, limit_bytes: int = 64 << 20
) -> Iterator[slice]:
    """Cut rows into blocks whose dense form stays under a limit; at least one row each."""
    height = max(1, limit_bytes // max(1, n_columns * itemsize))
    for start in range(0, n_rows, height):
        yield slice(start, min(start + height, n_rows))


class SparseOperator:
    """A sparse matrix cut into blocks of rows, so that products run on all cores.

    SciPy's own products run on one core, but without the interpreter's lock:
    blocks with equal numbers of entries go to threads. No values are copied.

    Parameters
    ----------
    matrix : scipy.sparse.csr_array of float32, shape (m, n)
    n_threads : int, optional
        All cores by default.
    """

    def __init__(self, matrix: sparse.csr_array, *, n_threads: int | None = None) -> None:
        self.shape: tuple[int, int] = matrix.shape
        self._n_threads = n_threads
        n_blocks = 4 * (n_threads or n_cores())
        indptr = matrix.indptr
        cuts = np.searchsorted(indptr, np.linspace(0, matrix.nnz, n_blocks + 1)[1:-1])
        edges = np.unique([0, *cuts, self.shape[0]])
        self._blocks = []
        for start, stop in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            first, last = indptr[start], indptr[stop]
            # Filled afterwards: the constructor copies pieces of much larger arrays.
            block = sparse.csr_array((stop - start, self.shape[1]), dtype=matrix.dtype)
            block.data, block.indices = matrix.data[first:last], matrix.indices[first:last]
            block.indptr = indptr[start : stop + 1] - first
            self._blocks.append((slice(start, stop), block))

    def __matmul__(self, dense: np.ndarray) -> np.ndarray:
        """Return the product with a dense matrix of shape (n, k), as float32 (m, k)."""
        product = np.empty((self.shape[0], dense.shape[1]), dtype=np.float32)
        dense = np.ascontiguousarray(dense)

        def multiply(block: tuple[slice, sparse.csr_array]) -> None:
            rows, part = block
            product[rows] = part @ dense

        on_threads(multiply, self._blocks, n_threads=self._n_threads)
        return product
