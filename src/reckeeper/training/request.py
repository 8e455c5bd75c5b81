"""What a retrain may be asked for, checked before anything starts."""

from collections.abc import Mapping

from pydantic import ValidationError

from reckeeper import policy as policies
from reckeeper import storage
from reckeeper.config import Settings
from reckeeper.errors import Action, DataError, NotEnoughDataError
from reckeeper.recipes import recipe_named
from reckeeper.wire import Drift, JsonObject, RetrainRequest

FIRST_RECIPE: tuple[str, JsonObject] = ("svd", {"n_components": 10})
"""Recipe and settings while no version is active."""

TUNED_RECIPE = "spectral"
"""What is tuned where nobody names a recipe."""


AUTOMATIC = {"schedule", "rule"}
"""Triggers of retrains that nobody watches."""


def checked_request(request: Mapping[str, object], *, active: storage.Version | None) -> JsonObject:
    """Return a valid request for a retrain in its shortest form.

    Settings and tuning are for a recipe, and the form names it: which
    version is active may change until the run begins.

    Parameters
    ----------
    request : mapping
        Fields of `wire.RetrainRequest`.
    active : storage.Version or None
        The active version.

    Raises
    ------
    DataError
        A field is unknown, of the wrong type or out of range, there is no
        such recipe or setting, or fields exclude each other; the message
        begins with the field, and ``details`` has it.
    """
    try:
        parsed = RetrainRequest.model_validate(request)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_context=False, include_input=False)[0]
        field = ".".join(str(part)[:64] for part in first["loc"]) or "request"
        raise _refused(field, f"{first['msg']}.") from exc
    if not parsed.model_dump():
        return {}
    name = parsed.recipe
    if name is None:
        name = TUNED_RECIPE if parsed.tune else _basis(active)[0]
    try:
        recipe = recipe_named(name)
    except DataError as exc:
        raise _refused("recipe", exc.message, Action("list_recipes")) from exc
    if parsed.tune and parsed.settings is not None:
        raise _refused("settings", "Tuning is to find them. Leave out either settings or tune.")
    if parsed.tune_seconds is not None and not parsed.tune:
        raise _refused(
            "tune_seconds", "This is for tuning alone. Ask for tuning too, or leave it out."
        )
    if parsed.tuning is not None and not parsed.tune:
        raise _refused("tuning", "This is for tuning alone. Ask for tuning too, or leave it out.")
    if parsed.settings is not None:
        try:
            recipe.settings_type.parse(parsed.settings, recipe=name)
        except DataError as exc:
            raise _refused("settings", exc.message, Action("list_recipes")) from exc
    if parsed.tune or parsed.settings is not None:
        parsed = parsed.model_copy(update={"recipe": name})
    return parsed.model_dump()


def check_taste(connection: storage.Connection, settings: Settings) -> None:
    """See, as far as one look can tell, that there is something to train on.

    Raises
    ------
    NotEnoughDataError
        There are no interactions, or none that weighs anything under the policy.
    """
    if storage.interactions.is_empty(connection):
        raise no_interactions()
    weights = policies.current(connection, settings).policy.weights
    with_weight = [name for name, weight in weights.items() if weight > 0]
    if not storage.interactions.any_weighs(connection, with_weight):
        raise no_taste()


def no_interactions() -> NotEnoughDataError:
    """Return the error of an empty table."""
    return NotEnoughDataError(
        "There are no interactions to train on. Send some or import a file, then retrain.",
        action=Action("send_interactions"),
    )


def no_taste() -> NotEnoughDataError:
    """Return the error of interactions that were seen, and no more."""
    return NotEnoughDataError(
        "No interaction says that a user likes an item: each has weight 0, or a type without "
        "weight, or was dismissed or taken back. Send interactions with a weight above 0, such as "
        "clicks, or give their type a weight in the policy; then retrain.",
        action=Action("send_interactions"),
    )


def to_train(request: RetrainRequest, active: storage.Version | None) -> tuple[str, JsonObject]:
    """Return the recipe and the settings that a request trains with."""
    name, settings = _basis(active)
    if request.recipe not in {None, name}:
        assert request.recipe is not None
        name, settings = request.recipe, {}
    return name, settings if request.settings is None else request.settings


def drift_of(request: RetrainRequest, policy: policies.Policy) -> Drift:
    """Return the drift that a request is tuned for: its own, or the policy's."""
    asked = None if request.tuning is None else request.tuning.drift
    return asked or policy.tuning.drift


def has_same_settings(row: storage.Version, recipe: str, settings: Mapping[str, object]) -> bool:
    """Say whether a version has a recipe and its settings, once both are complete."""
    if row.recipe != recipe:
        return False
    complete = recipe_named(recipe).settings_type.parse
    try:
        return complete(row.settings, recipe=recipe) == complete(settings, recipe=recipe)
    except DataError:
        return False  # settings of another time, which the recipe no longer takes


def _basis(active: storage.Version | None) -> tuple[str, JsonObject]:
    return (active.recipe, active.settings) if active else FIRST_RECIPE


def _refused(field: str, message: str, action: Action | None = None) -> DataError:
    return DataError(f"{field}: {message}", details={"field": field}, action=action)
