"""A version from elsewhere on the page: what it says of itself is shown as text, and it can go."""

import contextlib
import os
import re

from tests.unit.small_models import add_version
from tests.unit.test_frontend import opened, press, read, run

from reckeeper import storage
from reckeeper.client import Client
from reckeeper.registry import Registry

PAGE = "pages/2_Model_Management.py"
HOSTILE = (
    "**fat** ![pixel](http://evil.example/x.png) <script>alert(1)</script> :red[red] $x$ "
    "`code\n\n# Heading\n\n![other](http://evil.example/y.png)\n\n`"
)
FIGURE = {"mean": 1e12, "low": -1e12, "high": 1e12}


def texts(at):
    """Give all that Markdown makes something of, without what stands in code."""
    cells = [str(cell) for table in at.table for cell in table.value.to_numpy().ravel()]
    names = [str(name) for table in at.table for name in table.value.columns]
    said = [each.value for kind in (at.markdown, at.caption, at.error, at.info) for each in kind]
    return [re.sub(r"`[^`\n]+`", "", text) for text in [*cells, *names, *said]]


def test_a_hostile_bundle_breaks_nothing_and_is_deleted(server, database, settings, tmp_path):
    elsewhere = settings.replaced(
        data_dir=tmp_path / "elsewhere", model_dir=tmp_path / "elsewhere" / "models"
    )
    storage.migrate(elsewhere)
    with contextlib.closing(storage.open_database(elsewhere)) as other:
        registry = Registry(other, elsewhere.model_dir)
        version = add_version(
            registry,
            elsewhere,
            verdict={"decision": "promote", "sentence": HOSTILE, "active_version": None},
            cause={"rule": "max_age", "sentence": HOSTILE},
            metrics={"ndcg@10": FIGURE, "ndcg@999999": FIGURE, "hit_rate@10": {"mean": 0}},
            actor=HOSTILE,
            data={"weights": {HOSTILE: 1.0}, "left_out_users": [HOSTILE]},
            libraries={HOSTILE: HOSTILE},
            decided={HOSTILE: HOSTILE},
        )
        registry.versions.note(version, HOSTILE, actor="ann")
        registry.transfer.export_bundle(version, tmp_path / "bundle.zip")
    add_version(Registry(database, settings.model_dir), settings)
    with Client(os.environ["RECKEEPER_SERVER_URL"]) as client:
        assert client.import_model(tmp_path / "bundle.zip").version == 2
        at = opened(PAGE)
        found = texts(at)
        assert any("fat" in text for text in found)
        for text in found:
            assert not re.search(r"(?<!\\)(?:!\[|<script|:red\[|\$x|\*\*fat)|^#", text, re.M), text
        at = press(at, "Compare versions")
        assert not any(re.search(r"(?<!\\)(?:!\[|<script)", text) for text in texts(at))
        at = press(at, "Delete version 2")
        assert read(at.toast) == ["Version 2 is deleted."]
        run(at)
        assert [model.version for model in client.models()] == [1]
