"""A model is asked once before it may answer."""

from reckeeper.errors import ArtifactError, DataError
from reckeeper.ranking import Ranker
from reckeeper.registry import ActiveModel
from reckeeper.serving.histories import history_of_items


def check(model: ActiveModel) -> None:
    """Answer a request from a model before it is activated, for who has its most popular item.

    Raises
    ------
    ArtifactError
        The model's scores are no finite numbers.
    """
    artifact = model.artifact
    history = history_of_items(
        artifact.items, [artifact.items.ids[artifact.popularity.argmax()]], [0]
    )
    try:
        Ranker.of(artifact.model, artifact).rank(history, k=10)
    except DataError as exc:
        raise ArtifactError(
            f"Version {model.version} answers with scores that are no numbers."
        ) from exc
