"""Kernels. Pure: no I/O, no clock, no logging; each states its own bytes."""

from reckeeper.linalg import collapse, parallel, products, ranking, svd
from reckeeper.linalg.parallel import SparseOperator, row_blocks
from reckeeper.linalg.products import dense_product
from reckeeper.linalg.ranking import top_k, top_k_rows, top_k_shared
from reckeeper.linalg.svd import TruncatedSvd, check_finite, truncated_svd

__all__ = [
    "SparseOperator",
    "TruncatedSvd",
    "check_finite",
    "collapse",
    "dense_product",
    "parallel",
    "products",
    "ranking",
    "row_blocks",
    "svd",
    "top_k",
    "top_k_rows",
    "top_k_shared",
    "truncated_svd",
]
