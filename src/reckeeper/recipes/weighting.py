"""How the weight of a pair enters a model: as 1, by its logarithm, or in proportion."""

from typing import Literal

import numpy as np
from scipy import sparse

from reckeeper.matrix import with_entries

Weighting = Literal["binary", "log", "raw"]


def usual_weight(weights: np.ndarray) -> float:
    """Return the mean of the weights above zero; 1 where there are none."""
    positive = weights[weights > 0]
    # Divided first: the sum of huge weights may overflow.
    largest = positive.max(initial=0.0)
    return (float(largest * np.mean(positive / largest)) if largest else 1.0) or 1.0


def weigh(
    rows: sparse.csr_array,
    weighting: str,
    *,
    scale: float,
    dtype: type[np.float32] | type[np.float64] = np.float32,
) -> sparse.csr_array:
    """Return rows of weights as they enter a model.

    Parameters
    ----------
    rows : scipy.sparse.csr_array of float64
        From 0 on; stored zeros stay zeros.
    weighting : str
        ``binary``, ``log`` or ``raw``.
    scale : float
        Above zero; the weight that counts as usual.
    dtype : type
        Of the result.
    """
    if weighting == "binary":
        data = (rows.data > 0).astype(dtype)
    else:
        # Beyond a million times the usual, or below a millionth, is no taste.
        share = np.clip(rows.data, 0.0, 1e6 * scale) / scale
        share[share < 1e-6] = 0.0
        data = (np.log1p(share) if weighting == "log" else share).astype(dtype)
    return with_entries(rows, data, rows.indices, rows.indptr)
