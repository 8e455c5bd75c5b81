"""What a release has written opens in this one, with its data and its files: from 0.1.0 on."""

import json
import os
import re
import subprocess
import tarfile
from pathlib import Path

import pytest
from tests.services import postgresql_programs
from tests.system.installation import ROOT, Installation

from reckeeper import storage
from reckeeper.config import Settings
from reckeeper.errors import SchemaError

FIXTURES = Path(__file__).parents[1] / "fixtures"
RELEASES = sorted(FIXTURES.glob("release-*.tar.gz"))


def test_every_release_has_left_what_it_writes():
    released = re.findall(r"^## (\d\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert "0.1.0" in released
    assert {path.name for path in RELEASES} == {
        f"release-{version}-{kind}.tar.gz"
        for version in released
        for kind in ("sqlite", "postgresql")
    }


@pytest.mark.fault(
    "A release is upgraded with its data",
    seen="every command says to migrate until that is done",
    kept="versions, their files, interactions: the same answers",
    heals="`reckeeper migrate`",
)
@pytest.mark.parametrize("release", RELEASES, ids=lambda path: path.name.removesuffix(".tar.gz"))
def test_what_a_release_has_written_opens(request, tmp_path, release):
    with tarfile.open(release) as tar:
        tar.extractall(tmp_path, filter="data")
    environ = {}
    if "postgresql" in release.name:
        cluster = request.getfixturevalue("postgresql")
        name = f"upgrade_{release.name.split('-')[1].replace('.', '_')}"
        environ["DATABASE_URL"] = cluster.create(name)
        request.addfinalizer(lambda: cluster.drop(name))
        programs = postgresql_programs()
        assert programs is not None
        subprocess.run(
            [
                *(programs / "psql", "--quiet", "--set=ON_ERROR_STOP=1"),
                *("--host=127.0.0.1", f"--port={cluster.port}", f"--username={cluster.ROLE}"),
                *(f"--dbname={name}", f"--file={tmp_path / 'data' / 'dump.sql'}"),
            ],
            env=os.environ | {"PGPASSWORD": cluster.PASSWORD},
            stdout=subprocess.DEVNULL,
            check=True,
        )
    wanted = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    with Installation(tmp_path, **environ) as installation:
        settings = Settings.from_env(installation.environ)
        with pytest.raises(SchemaError, match="older schema"):
            storage.open_database(settings)
        assert storage.migrate(settings) == "0002"
        installation.start_worker()
        installation.start_server()
        for answer in wanted:
            found = installation.server.get(f"/recommendations/{answer['user_id']}?n=5").json()
            assert found["model_version"] == 2
            assert [row["item_id"] for row in found["items"]] == [
                row["item_id"] for row in answer["items"]
            ]
            assert [row["score"] for row in found["items"]] == pytest.approx(
                [row["score"] for row in answer["items"]]
            )
        models = installation.server.get("/models").json()["models"]
        assert [(model["version"], model["status"]) for model in models] == [
            (2, "active"),
            (1, "inactive"),
        ]
        assert installation.server.get("/items/i1").json()["item"]["title"] == "One"
        policy = installation.server.get("/policy").json()["policy"]
        assert (policy["versions_kept"], policy["weights"]["buy"]) == (5, 5)
        assert installation.server.get("/audit/verify").json()["ok"]
        assert installation.server.post("/models/1/activate").status_code == 200
        assert installation.retrain() == 3
        assert "whole" in installation.run("audit", "verify").stdout
