"""Kernels. Pure: no I/O, no clock, no logging; each states its own bytes."""

from reckeeper.linalg import collapse, parallel, products, ranking, svd
from reckeeper.linalg.parallel import SparseOperator, row_blocks
from reckeeper.linalg.products import dense_product, sparse_product
from reckeeper.linalg.ranking import top_k, top_k_of_one, top_k_rows, top_k_shared, top_k_stored
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
    "sparse_product",
    "svd",
    "top_k",
    "top_k_of_one",
    "top_k_rows",
    "top_k_shared",
    "top_k_stored",
    "truncated_svd",
]
