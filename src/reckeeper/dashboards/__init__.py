"""What Grafana and Prometheus are given: a dashboard and alert rules for the metrics."""

from importlib import resources
from pathlib import Path

from reckeeper.errors import DataError

FILES = ("grafana.json", "alerts.yaml")


def text_of(name: str) -> str:
    """Return one of `FILES`."""
    return resources.files(__name__).joinpath(name).read_text(encoding="utf-8")


def export(folder: Path) -> list[Path]:
    """Write all files to a folder, over those of an earlier release, and return their paths.

    Raises
    ------
    DataError
        The folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        written = [folder / name for name in FILES]
        for path in written:
            path.write_text(text_of(path.name), encoding="utf-8")
    except OSError as exc:
        raise DataError(
            f"{folder} cannot be written to: {exc.strerror}. Name a folder that this user may "
            "write to."
        ) from exc
    return written
