"""The pickle of a version: for people and their notebooks, never read by Reckeeper."""

import pickle
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scipy import sparse

from reckeeper.artifact.format import Artifact
from reckeeper.matrix import InteractionMatrix


def write_pickle(
    artifact: Artifact, trained: InteractionMatrix, path: Path, *, cell_limit: int
) -> None:
    """Write a version's pickle: a dict that opens with pandas, scipy and scikit-learn alone.

    Parameters
    ----------
    artifact : Artifact
    trained : InteractionMatrix
        What the model was fitted to; of a version that was brought here, of which nobody knows
        the users, no row.
    path : Path
    cell_limit : int
        Users × items up to which it carries the predicted ratings; above,
        their place holds None, and the other parts give the same numbers:
        ``svd.inverse_transform(svd.transform(rating_matrix[a:b]))`` for the
        recipe ``svd``; any other puts beside them what it takes, as its
        `to_export` says.

    Raises
    ------
    OSError
        The file could not be written.
    """
    with path.open("wb") as stream:
        pickle.dump(_export(artifact, trained, cell_limit), stream, protocol=5)


def _export(artifact: Artifact, trained: InteractionMatrix, cell_limit: int) -> dict[str, Any]:
    metadata = artifact.metadata
    fits = len(trained.users) * len(trained.items) <= cell_limit
    return {
        "rating_matrix": sparse.csr_matrix(trained.weights),
        "svd_model": artifact.model.to_sklearn(),
        "predicted_ratings": artifact.predicted_ratings(trained) if fits else None,
        "metadata": {
            **asdict(metadata),
            "timestamp": metadata.timestamp,
            "users": trained.users.ids,
            "items": trained.items.ids,
        },
        **artifact.model.to_export(trained),
    }
