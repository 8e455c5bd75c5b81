"""Weights of interaction types, which are the policy's, said together with interactions."""

from collections.abc import Mapping

from reckeeper import policy as policies
from reckeeper import storage
from reckeeper.config import Settings
from reckeeper.errors import DataError
from reckeeper.events.columns import OPTIONS


def parse_weights(text: str) -> dict[str, float]:
    """Return the weights of a text such as ``view=1,cart=3,purchase=5``.

    Raises
    ------
    DataError
        It is none.
    """
    weights: dict[str, float] = {}
    for pair in text.split(","):
        name, _, number = (part.strip() for part in pair.partition("="))
        try:
            weight = float(number)
        except ValueError:
            weight = float("nan")
        if not name or weight != weight or name in weights:
            raise DataError(
                f"The weights {text!r} cannot be used: {pair!r} is not a type that comes once, "
                "with its weight. Write them as view=1,cart=3,purchase=5."
            )
        weights[name] = weight
    return weights


def check_weights(
    weights: Mapping[str, float], columns: Mapping[str, str], *, interaction_type: str, name: str
) -> None:
    """See that weights are of use: rows have types, or all have one of these.

    Raises
    ------
    DataError
        They do not.
    """
    if "interaction_type" not in columns and interaction_type not in weights:
        raise DataError(
            f"Weights of types were given, and no column of {name} is known to be the type: say "
            f"which is, with {OPTIONS['interaction_type']}, or what type all rows are, with "
            "--interaction-type."
        )


def store_weights(
    database: storage.Database, settings: Settings, weights: Mapping[str, float], *, actor: str
) -> None:
    """Store weights of interaction types in the policy; other types keep theirs.

    Raises
    ------
    DataError
        The policy does not take one. Nothing was stored.
    """
    with database.read() as connection:
        policy = policies.current(connection, settings).policy
    changed = {**policy.weights, **weights}
    if changed != policy.weights:
        content = {**policy.model_dump(), "weights": changed}
        policies.store(database, settings, content, actor=actor, reason="given with an import")
