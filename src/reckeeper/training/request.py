"""What a retrain may be asked for, checked before anything starts."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from reckeeper import storage
from reckeeper.errors import Action, DataError
from reckeeper.recipes import recipe_named

FIRST_RECIPE: tuple[str, dict[str, Any]] = ("svd", {"n_components": 10})
"""Recipe and settings while no version is active."""

TUNED_RECIPE = "spectral"
"""What is tuned where nobody names a recipe."""


class RetrainRequest(BaseModel):
    """What a new version is to be trained with; what is left out is as in the active version."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        json_schema_extra={
            "examples": [
                {"recipe": "svd", "settings": {"n_components": 20}},
                {"tune": True, "tune_seconds": 60},
            ]
        },
    )

    recipe: str | None = Field(
        None,
        description="Name of a recipe. Default: the active version's; spectral with tune.",
    )
    settings: dict[str, Any] | None = Field(
        None,
        description="Of the recipe; what is left out has its default. Without any: those of the "
        "active version where the recipe is the same, else the defaults.",
    )
    tune: bool = Field(
        False, description="Find the settings by how well they do on what is held out."
    )
    tune_seconds: Annotated[float, Field(gt=0, le=86_400)] | None = Field(
        None, description="How long to tune. Default: just under five times what one fit takes."
    )


def checked_request(
    request: Mapping[str, Any], *, active: storage.Version | None
) -> dict[str, Any]:
    """Return a valid request for a retrain in its shortest form.

    Settings and tuning are for a recipe, and the form names it: which
    version is active may change until the run begins.

    Parameters
    ----------
    request : mapping
        Fields of `RetrainRequest`.
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
        known = ", ".join(RetrainRequest.model_fields)
        raise _refused(field, f"{first['msg']}. A retrain takes {known}.") from exc
    shortest = parsed.model_dump(exclude_defaults=True)
    if not shortest:
        return shortest
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
        raise _refused("tune_seconds", 'This is for tuning alone. Send "tune": true with it.')
    if parsed.settings is not None:
        try:
            recipe.settings_type.parse(parsed.settings, recipe=name)
        except DataError as exc:
            raise _refused("settings", exc.message, Action("list_recipes")) from exc
    if parsed.tune or parsed.settings is not None:
        shortest["recipe"] = name
    return shortest


def to_train(request: RetrainRequest, active: storage.Version | None) -> tuple[str, dict[str, Any]]:
    """Return the recipe and the settings that a request trains with."""
    name, settings = _basis(active)
    if request.recipe not in {None, name}:
        assert request.recipe is not None
        name, settings = request.recipe, {}
    return name, settings if request.settings is None else request.settings


def _basis(active: storage.Version | None) -> tuple[str, dict[str, Any]]:
    return (active.recipe, active.settings) if active else FIRST_RECIPE


def _refused(field: str, message: str, action: Action | None = None) -> DataError:
    return DataError(f"{field}: {message}", details={"field": field}, action=action)
