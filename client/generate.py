"""Writes the client that waits from the one on asyncio: `python -m client.generate`.

The modules `async_*` of `src/reckeeper/client` are written by people. Each becomes a module
without that prefix in which nothing is awaited; a test fails where one is not what this module
would write.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "src" / "reckeeper" / "client"
HEAD = "# Made of {source} by `python -m client.generate`: change that one."

RULES = [
    (r"\(\s*await (self\._server\.\w+\((?:[^()]|\([^()]*\))*\))\s*\)\.", r"\1."),
    (r"\bAsyncGenerator\[(.+), None\]", r"Generator[\1, None, None]"),
    (r"\basyncio\.to_thread\(([\w.]+), ", r"\1("),
    (r"\basyncio\.sleep\b", "time.sleep"),
    (r"\basync (def|with|for) ", r"\1 "),
    (r"\bawait ", ""),
    (r"\bAwaitable\[(\w+)\]", r"\1"),
    (r"__a(enter|exit)__", r"__\1__"),
    (r"\baclosing\b", "closing"),
    (r"\ba(close|read|iter_\w+)\(", r"\1("),
    (r"\bAsync([A-Z])", r"\1"),
    (r"\basync_", ""),
    (r"for programs on asyncio\.", "safe to share between threads."),
]


def made() -> Iterator[tuple[Path, str]]:
    """Yield each module and what it has to be."""
    for source in sorted(FOLDER.glob("async_*.py")):
        _, _, text = source.read_text(encoding="utf-8").partition("\n")
        for pattern, replacement in RULES:
            text = re.sub(pattern, replacement, text)
        head = HEAD.format(source=source.name)
        yield FOLDER / source.name.removeprefix("async_"), in_order(f"{head}\n{text}")


def in_order(text: str) -> str:
    """Return a module as `ruff` would have it."""
    for command in (["check", "--fix-only", "--unsafe-fixes", "--quiet"], ["format", "--quiet"]):
        run = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--stdin-filename", FOLDER / "made.py", "-"],
            input=text,
            capture_output=True,
            text=True,
            check=True,
        )
        text = run.stdout
    return text


if __name__ == "__main__":
    for path, text in made():
        path.write_text(text, encoding="utf-8")
