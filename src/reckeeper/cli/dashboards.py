"""`reckeeper dashboards`: what Grafana and Prometheus are given."""

from pathlib import Path
from typing import Annotated

import typer

from reckeeper.cli.terminal import AsJson, print_json, say


def register(app: typer.Typer) -> None:
    """Add the command `dashboards`."""
    dashboards = typer.Typer(
        help="A dashboard for Grafana, and alert rules for Prometheus.", no_args_is_help=True
    )
    dashboards.command("export")(export)
    dashboards.callback()(lambda: None)
    app.add_typer(dashboards, name="dashboards")


def export(
    folder: Annotated[Path, typer.Argument(help="Where to; made if need be.")],
    as_json: AsJson = False,
) -> None:
    """Write the dashboard and the alert rules to a folder."""
    from reckeeper import dashboards

    written = dashboards.export(folder)
    if as_json:
        print_json({"files": [str(path) for path in written]})
        return
    for path in written:
        say(f"Wrote {path}.")
