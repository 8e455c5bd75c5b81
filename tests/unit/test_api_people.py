"""A person who is erased over HTTP: what is sent again, imported, listed and downloaded."""

import pytest
from fastapi.testclient import TestClient

from reckeeper import clock, people
from reckeeper.api.app import create_app
from reckeeper.errors import ConflictError
from reckeeper.events import files
from reckeeper.registry import Registry
from reckeeper.training import pipeline

WHO = "anna who/is erased"
PATH = "anna%20who%2Fis%20erased"
OLD = {
    "event_id": "e1",
    "user_id": WHO,
    "item_id": "i1",
    "interaction_type": "watchlist_add",
    "occurred_at": "2024-05-01T10:00:00Z",
}


@pytest.fixture
def api(settings, database):
    with TestClient(create_app(settings)) as client:
        yield client


def accepted(answer):
    assert answer.status_code == 200, answer.text
    return answer.json()["accepted"]


def test_what_is_sent_or_imported_again_stays_away_and_who_comes_back_begins_anew(
    api, settings, database, tmp_path
):
    assert accepted(api.post("/user_interactions", json=[OLD])) == 1
    assert api.get(f"/users/{PATH}/export").json()["watchlist"][0]["item_id"] == "i1"
    answer = api.delete(f"/users/{PATH}", params={"reason": "asked for"})
    receipt = answer.json()["erasure"]
    assert receipt["removed"] == {"user_interactions": 1, "watchlist": 1}
    assert (receipt["state"], receipt["is_genuine"]) == ("complete", True)
    assert WHO not in answer.text
    told = api.get(f"/erasures/{receipt['erasure_id']}").json()
    assert told["erasure"] == api.get("/erasures").json()["erasures"][0] == receipt
    assert api.get("/erasures/99").status_code == 404

    assert accepted(api.post("/user_interactions", json=[OLD])) == 0
    other = OLD | {"event_id": "e2", "occurred_at": "2023-01-01T00:00:00Z"}
    assert accepted(api.post("/user_interactions", json=[other])) == 0
    path = tmp_path / "old.csv"
    path.write_text(
        "user_id,item_id,occurred_at\n"
        f"{WHO},i1,2024-05-01T10:00:00Z\nsomebody,i1,2024-05-01T10:00:00Z\n"
    )
    report = files.import_file(
        database, path, format=files.FileFormat(), settings=settings, actor="test"
    )
    assert (report.accepted, report.duplicates) == (1, 1)
    timeless = tmp_path / "timeless.csv"
    timeless.write_text(f"user_id,item_id\n{WHO},i2\nsomebody,i2\n")
    report = files.import_file(
        database, timeless, format=files.FileFormat(), settings=settings, actor="test"
    )
    assert report.accepted == 1
    empty = api.get(f"/users/{PATH}/export").json()
    assert (empty["interactions"], empty["watchlist"]) == ([], [])

    new = {name: OLD[name] for name in ("user_id", "item_id", "interaction_type")}
    assert accepted(api.post("/user_interactions", json=[new])) == 1
    assert len(api.get(f"/users/{PATH}/export").json()["interactions"]) == 1
    again = api.delete(f"/users/{PATH}").json()["erasure"]
    assert again["removed"] == {"user_interactions": 1, "watchlist": 1}
    assert api.delete(f"/users/{PATH}").json()["erasure"]["removed"] == {}


def test_no_list_stays_in_memory(api, taste, train, settings, database):
    registry = Registry(database, settings.model_dir)
    version = train()
    assert api.post(f"/models/{version}/activate").status_code == 200
    assert api.get("/recommendations/u00").json()["strategy"] == "model"
    finished = api.app.state.runtime.finished
    assert any("u00" in asked for asked in finished._held)
    api.delete("/users/u00")
    assert not finished._held
    assert api.get("/recommendations/u00").json()["strategy"] != "model"
    assert not (settings.model_dir / "interactions.snapshot").exists()
    receipt = api.get("/erasures/1").json()["erasure"]
    assert (receipt["state"], receipt["pickles_rewritten"]) == ("retraining", [version])
    pickled = api.get(f"/models/{version}/pickle").content
    assert pickled[:1] == b"\x80"
    assert b"u01" not in pickled

    asked = []
    care = people.Aftercare(database, registry, settings, lambda: asked.append(True))
    care.look(clock.now())
    assert asked == [True]
    second = train()
    assert api.post(f"/models/{second}/activate").status_code == 200
    care.look(clock.now())
    receipt = api.get("/erasures/1").json()["erasure"]
    assert (receipt["state"], receipt["version"]) == ("complete", second)
    api.delete("/users/u01")
    gone = api.get(f"/models/{second}/pickle")
    assert gone.status_code == 200
    third = train()
    assert api.post(f"/models/{third}/activate").status_code == 200
    fourth = train()
    assert api.delete("/users/u02").json()["erasure"]["pickles_deleted"] == [fourth]
    gone = api.get(f"/models/{fourth}/pickle")
    assert (gone.status_code, gone.json()["code"]) == (410, "gone")
    assert "had a person in it who was erased" in gone.json()["message"]
    assert api.get(f"/models/{third}/pickle").status_code == 200
    assert api.get(f"/models/{fourth}/download").status_code == 200


def test_a_training_that_somebody_is_erased_under_keeps_no_version(
    database, settings, taste, train, monkeypatch
):
    registry = Registry(database, settings.model_dir)
    fitted = pipeline._fitted

    def erase_while_it_fits(*given):
        people.erase(database, registry, settings, "u00", actor="test")
        return fitted(*given)

    monkeypatch.setattr(pipeline, "_fitted", erase_while_it_fits)
    with pytest.raises(ConflictError, match="Somebody was erased while training job"):
        train()
    assert registry.versions.all() == []
    assert not list(settings.model_dir.glob("model-*"))
    people.Aftercare(database, registry, settings, lambda: None).look(clock.now())
    assert not (settings.model_dir / "interactions.snapshot").exists()
