"""Clients that others generate from the OpenAPI document call every route of a real server.

``python -m benchmarks.generated_clients [--tools FOLDER]``, two minutes. Needs the network once:
`openapi-python-client` (in a virtual environment of its own, as it pins older packages) and, where
there is npm, `openapi-typescript`, `openapi-fetch` and `typescript`. The folder keeps the tools
for the next run. A generator that cannot be had is skipped, and the result says so.

What is checked: the generators take the document without a warning; the programs beside this file,
`calls.py` and `calls.ts`, pass mypy --strict and tsc --strict against what was generated; run, they
call every operation once and find in the answers what the types promise, and nothing more. The page
of `examples/shop` passes tsc --strict against the client that its own generator makes.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from pathlib import Path

from benchmarks import harness
from reckeeper.api.app import document

PYTHON_TOOLS = ("openapi-python-client==0.29.1",)
NODE_TOOLS = ("openapi-typescript@7.13.0", "openapi-fetch@0.15.0", "typescript@5.9.3")

_HERE = Path(__file__).parent
_SHOP = Path(__file__).parents[2] / "examples" / "shop"
_CONFIG = "content_type_overrides:\n  application/zip: application/octet-stream\npost_hooks: []\n"


class _SkippedError(Exception):
    """A generator cannot be had here."""


def run(tools: Path | None = None) -> dict[str, object]:
    """Generate the clients, check their types and let two of them call a server.

    Parameters
    ----------
    tools : Path, optional
        Where the generators are installed, or are to be. Default: a temporary folder.
    """
    results: dict[str, object] = {"benchmark": "generated_clients"}
    with tempfile.TemporaryDirectory(prefix="reckeeper-generated-") as name:
        folder = Path(name)
        (folder / "openapi.json").write_text(json.dumps(document()), encoding="utf-8")
        checks = (("python", _python), ("typescript", _typescript), ("shop", _shop))
        for language, check in checks:
            try:
                with _running() as url:
                    results[language] = check(folder, tools or folder / "tools", url)
            except _SkippedError as exc:
                results[language] = f"SKIPPED: {exc}"
    return results


@contextlib.contextmanager
def _running() -> Iterator[str]:
    with (
        harness.installation() as settings,
        harness.process("kafka_worker/kafka_worker.py", settings, url=settings.worker_url),
        harness.process("server/server.py", settings, url=settings.server_url),
    ):
        yield settings.server_url


def _python(folder: Path, tools: Path, url: str) -> str:
    python = _python_tools(tools / "python")
    (folder / "config.yml").write_text(_CONFIG, encoding="utf-8")
    generate = [python.with_name("openapi-python-client"), "generate", "--fail-on-warning"]
    _do(
        *(*generate, "--meta", "none", "--config", "config.yml", "--path", "openapi.json"),
        *("--output-path", "reckeeper_generated"),
        folder=folder,
    )
    shutil.copy(_HERE / "calls.py", folder)
    _do(
        *(sys.executable, "-m", "mypy", "--strict", "--no-incremental", "--config-file="),
        *("--python-executable", python, "calls.py"),
        folder=folder,
    )
    return _do(python, "calls.py", url, folder=folder).strip()


def _typescript(folder: Path, tools: Path, url: str) -> str:
    programs = _node_tools(tools / "node")
    _do(programs / "openapi-typescript", "openapi.json", "-o", "api.ts", folder=folder)
    shutil.copy(_HERE / "calls.ts", folder)
    (folder / "package.json").write_text('{"type": "module"}', encoding="utf-8")
    (folder / "node_modules").symlink_to(programs.parent)
    options = ("--strict", "--target", "es2022", "--module", "nodenext", "--lib", "es2022,dom")
    _do(programs / "tsc", *options, "calls.ts", folder=folder)
    return _do("node", "calls.js", url, folder=folder).strip()


def _shop(folder: Path, tools: Path, url: str) -> str:
    """Check the types of examples/shop, whose own generator writes them beside the client."""
    programs = _node_tools(tools / "node")
    shop = shutil.copytree(_SHOP, folder / "shop")
    client = _do(sys.executable, shop / "generate.py", f"{url}/openapi.json", folder=folder)
    (shop / "client.js").write_text(f'{client}export const API = "{url}";\n', encoding="utf-8")
    (shop / "package.json").write_text('{"type": "module"}', encoding="utf-8")
    options = ("--noEmit", "--checkJs", "--strict", "--target", "es2022", "--module", "nodenext")
    _do(programs / "tsc", *options, "--lib", "es2022,dom,dom.iterable", "shop.js", folder=shop)
    return "its calls have the types of the document"


def _python_tools(folder: Path) -> Path:
    """Return an interpreter beside which the generator is installed."""
    python = folder / "bin" / "python"
    if not python.with_name("openapi-python-client").exists():
        venv.create(folder, with_pip=True)
        try:
            _do(python, "-m", "pip", "install", "--quiet", *PYTHON_TOOLS, folder=folder)
        except RuntimeError as exc:
            raise _SkippedError(f"openapi-python-client was not installed: {exc}") from exc
    return python


def _node_tools(folder: Path) -> Path:
    """Return the folder of the generator and the compiler."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        raise _SkippedError("there is no npm")
    programs = folder / "node_modules" / ".bin"
    if not (programs / "tsc").exists():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            _do("npm", "install", "--no-audit", "--no-fund", *NODE_TOOLS, folder=folder)
        except RuntimeError as exc:
            raise _SkippedError(f"openapi-typescript was not installed: {exc}") from exc
    return programs


def _do(*command: str | Path, folder: Path) -> str:
    """Run a command and return what it prints."""
    done = subprocess.run(
        command,
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{command[0]}: {(done.stdout + done.stderr)[-4000:]}")
    return done.stdout
