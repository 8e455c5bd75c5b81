"""Compose files as `docker compose` reads them, as far as this project's go."""

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
WHOLE, SMALL = "docker-compose.yml", "docker-compose.embedded.yml"

_VARIABLE = re.compile(
    r"\$(?:(?P<dollar>\$)|\{(?P<name>\w+):(?P<kind>[-?])(?P<rest>[^}]*)\}|(?=.))"
)


class Refused(Exception):
    """What compose says before it starts anything."""


def read(name: str, **variables: str) -> dict[str, Any]:
    """Return the services of a file, with the variables of a shell or of ``.env`` put in.

    Raises
    ------
    Refused
        One that the file asks for is not set, or empty.
    """
    services: dict[str, Any] = filled(
        yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))["services"], variables
    )
    return services


def filled(value: Any, variables: dict[str, str]) -> Any:
    """Put variables into the texts of a parsed file."""
    if isinstance(value, dict):
        return {key: filled(part, variables) for key, part in value.items()}
    if isinstance(value, list):
        return [filled(part, variables) for part in value]
    if not isinstance(value, str):
        return value

    def one(found: re.Match[str]) -> str:
        if found["dollar"]:
            return "$"
        assert found["name"], f"a form of variable that this reader does not know: {value}"
        if given := variables.get(found["name"]):
            return given
        if found["kind"] == "?":
            raise Refused(f"required variable {found['name']} is missing a value: {found['rest']}")
        return found["rest"]

    return _VARIABLE.sub(one, value)
