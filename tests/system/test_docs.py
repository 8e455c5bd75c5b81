"""Every command and every piece of Python on the pages runs, on a real installation.

What cannot run stands under ``<!-- not run: reason -->``. The pages run in the order of the
index, on one installation, each block as a reader would paste it.
"""

import os
import re
import shutil
import subprocess
import sys

import pandas as pd
import pytest
from tests.system import copies
from tests.system.installation import BIN, ROOT, Installation, clicks, require, wait_until

BLOCK = re.compile(r"(<!-- not run: [^>]+ -->\n+)?^```(console|python)\n(.*?)^```$", re.M | re.S)
# A route that answers an error fails its block.
PREAMBLE = (
    'set -euo pipefail; curl() { command curl --silent --show-error --fail-with-body "$@"; }\n'
)


def blocks(page):
    """Return language and code of each block of a page that runs."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [(language, code) for mark, language, code in BLOCK.findall(text) if not mark]


def pages():
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    listed = re.findall(r"^(?:[a-z]+/)?[a-z]+$", index, re.MULTILINE)
    every = ["README.md", *(f"docs/{name}.md" for name in listed)]
    return [page for page in every if blocks(page)]


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """Give an installation with two versions, and the files that the pages speak of beside it."""
    require(shutil.which("curl"), "no curl is installed")
    folder = tmp_path_factory.mktemp("docs")
    models = folder / "kafka_worker" / "models"
    settings = {"RECKEEPER_MODEL_DIR": str(models), "RECKEEPER_VERSIONS_KEPT": "100"}
    with Installation(folder, **settings) as made:
        rows = pd.DataFrame(clicks(30, 20)).sample(frac=1, random_state=0)
        rows["occurred_at"] = [f"2026-01-01T{n // 60:02}:{n % 60:02}:00Z" for n in range(len(rows))]
        rows.to_csv(folder / "events.csv", index=False)
        rows.to_parquet(folder / "events.parquet", index=False)
        pairs = rows.drop(columns=["interaction_type", "weight", "occurred_at"])
        sales = pd.DataFrame(clicks(30, 12))[["user_id", "item_id"]]
        sales.columns = ["customer", "sku"]
        sales["sku"] = "sold-" + sales["sku"]
        sales.to_parquet(folder / "sales.parquet")
        pairs.iloc[::2].to_csv(folder / "train.csv", index=False)
        pairs.iloc[1::2].to_csv(folder / "test.csv", index=False)
        ratings = [
            f"{user},{(user * 3 + step * step) % 25 + 1},{3 + (user + step) % 5 / 2},"
            f"{1_700_000_000 + 60 * (10 * user + step)}"
            for user in range(1, 31)
            for step in range(10)
        ]
        (folder / "ratings.csv").write_text(
            "\n".join(["userId,movieId,rating,timestamp", *ratings])
        )
        (folder / "movies.csv").write_text("movieId,title,genres\n7,Seven,Crime\n9,Nine,Drama\n")
        made.start_up()
        made.run("import", "events.csv")
        assert [made.retrain(), made.retrain()] == [1, 2]
        yield made


@pytest.fixture(scope="module")
def command_folder(tmp_path_factory):
    """Give the folder of the `reckeeper` that the pages call: where it can be, of a copy."""
    if not copies.CAN_COPY:
        yield BIN
        return
    folder = tmp_path_factory.mktemp("bin")
    with copies.command(BIN / "reckeeper", folder / "reckeeper"):
        yield folder


def run(running, command_folder, language, code):
    for documented, port in ((8000, running.server_port), (5000, running.worker_port)):
        code = code.replace(f"localhost:{documented}", f"127.0.0.1:{port}")
    code = re.sub(r"--tune-seconds \d+", "--tune-seconds 1", code)  # to wait shows nothing
    command = [sys.executable, "-c", code]
    if language == "console":
        command = ["bash", "-c", PREAMBLE + code]
    done = subprocess.run(
        command,
        cwd=running.folder,
        env=running.environ | {"PATH": f"{command_folder}{os.pathsep}{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"


def no_job_runs(running):
    return all(job["status"] != "running" for job in running.server.get("/jobs").json()["jobs"])


@pytest.mark.parametrize("page", pages())
def test_what_a_page_shows_runs(running, command_folder, page):
    for language, code in blocks(page):
        run(running, command_folder, language, code)
    wait_until(lambda: no_job_runs(running), "the jobs of this page end", seconds=120)
