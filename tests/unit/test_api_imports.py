"""Files that are sent to be imported: what the routes take, refuse, tell and undo."""

import csv
import dataclasses
import errno
import gzip
import io
import json
import shutil
import threading
import time

import httpx
import pytest
from fastapi.testclient import TestClient
from tests.conftest import settings_in

from reckeeper import client, storage, wire
from reckeeper.api import importing, uploads
from reckeeper.api.app import create_app
from reckeeper.client import Client
from reckeeper.errors import DataError, NotFoundError
from reckeeper.events import demo, files
from reckeeper.events.files import FileFormat
from reckeeper.wire.imports import as_fields

SHOP = "Kunde,Artikel,wert\nu1,i1,1\nu1,i2,0\nu2,,1\nu3,,1\n"
COLUMNS = {"user_column": "Kunde", "item_column": "Artikel", "weight_column": "wert"}


@pytest.fixture(scope="module")
def refusing(tmp_path_factory, migrated):
    """Return the settings and the API of an installation that no request of these tests changes."""
    settings = settings_in(tmp_path_factory.mktemp("refusing"))
    shutil.copytree(migrated, settings.data_dir)
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        yield settings, client


@pytest.fixture
def api(settings, database):
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        yield client


def ended(api, answer):
    """Wait for an import to end, and return what is told of it."""
    assert answer.status_code == 202, answer.text
    place = answer.headers["Location"]
    give_up_at = time.monotonic() + 20
    while (told := api.get(place).json()["import"])["status"] == "running":
        assert time.monotonic() < give_up_at
        time.sleep(0.01)
    return told


def left_over(settings):
    return [path.name for path in (settings.data_dir / "imports").glob("upload-*")]


def until_gone(settings):
    give_up_at = time.monotonic() + 20
    while left_over(settings):
        assert time.monotonic() < give_up_at
        time.sleep(0.01)


def test_a_file_is_sent_as_the_body_watched_and_undone(api, settings):
    params = {"filename": "C:\\data/shop.csv", **COLUMNS}
    answer = api.post("/imports", params=params, content=SHOP, headers={"X-Reckeeper-Actor": "ann"})
    told = ended(api, answer)
    assert answer.json()["import"]["import_id"] == told["import_id"] == 1
    assert (told["source"], told["actor"], told["status"]) == ("shop.csv", "api:ann", "complete")
    assert (told["accepted"], told["without_taste"], told["refused"]) == (2, 1, 2)
    assert told["rows"] == 4
    assert told["bytes_done"] == told["bytes_total"] == len(SHOP)
    (refusal,) = told["refusals"]
    assert (refusal["file"], refusal["column"], refusal["rows"]) == ("shop.csv", "Artikel", 2)
    assert [each["line"] for each in refusal["examples"]] == [4, 5]
    report = list(csv.DictReader(io.StringIO(api.get("/imports/1/refused").text)))
    assert [row["line"] for row in report] == ["4", "5"]
    until_gone(settings)
    assert "kauf" not in api.get("/policy").json()["policy"]["weights"]
    weighed = {"filename": "a.csv", "weights": "kauf=5"}
    typed = "user_id,item_id,interaction_type\nu,i,kauf\n"
    assert ended(api, api.post("/imports", params=weighed, content=typed))["accepted"] == 1
    assert api.get("/policy").json()["policy"]["weights"]["kauf"] == 5
    again = ended(api, api.post("/imports", params=params, content=SHOP))
    assert (again["accepted"], again["duplicates"]) == (0, 2)
    assert [each["import_id"] for each in api.get("/imports").json()["imports"]] == [3, 2, 1]
    (older,) = api.get("/imports", params={"before": 2}).json()["imports"]
    assert older == told
    assert api.delete("/imports/1").json() == {
        "status": "ok", "import_id": 1, "interactions": 2, "items": 0
    }  # fmt: skip
    assert api.get("/imports/1").json()["import"]["status"] == "undone"
    assert api.delete("/imports/1").status_code == 409
    assert api.get("/user_interactions/u1").json()["interactions"] == []


def test_a_form_brings_a_catalogue(api, settings):
    sent = {
        "file": ("events.csv.gz", gzip.compress(b"user_id,item_id\nu,i\n")),
        "catalogue": ("items.csv", b"item_id,name\ni,\xc3\x9cbersee\n"),
    }
    told = ended(api, api.post("/imports", params={"title_column": "name"}, files=sent))
    assert (told["source"], told["accepted"], told["items"]) == ("events.csv.gz", 1, 1)
    assert api.get("/items/i").json()["item"]["title"] == "Übersee"
    until_gone(settings)


@pytest.mark.parametrize(
    ("params", "body", "message"),
    [
        ({}, b"", "The file is empty"),
        ({}, b"a,b\n1,2\n", "user_id"),
        ({"user_colum": "u"}, SHOP.encode(), "user_column"),
        ({"time_unit": "weeks"}, SHOP.encode(), "time_unit"),
        ({"encoding": "undefined"}, SHOP.encode(), "encoding 'undefined'"),
        ({"encoding": "utf-16"}, SHOP.encode(), "not text in utf-16"),
        ({"encoding": "punycode"}, SHOP.encode(), "encoding 'punycode'"),
        ({"rating_column": "wert"}, SHOP.encode(), "least rating"),
    ],
)
def test_what_cannot_be_imported_is_said_at_once(refusing, params, body, message):
    settings, api = refusing
    answer = api.post("/imports", params=params, content=body)
    assert answer.status_code == 422
    assert message in answer.json()["message"]
    assert str(settings.data_dir) not in answer.json()["message"]
    assert api.get("/imports").json()["imports"] == []
    until_gone(settings)


FORM = {"Content-Type": "multipart/form-data; boundary=x"}
FILE = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.csv"\r\n\r\nuser_id'


@pytest.mark.parametrize(
    ("headers", "body", "message"),
    [
        (FORM, FILE, "ends in the middle"),
        (FORM, FILE.replace(b'"file"', b'"other"') + b"\r\n--x--\r\n", "a part 'other'"),
        (FORM, b"no form\r\n", "cannot be read"),
        (FORM, b"--x--\r\n", "no part `file`"),
        ({"Content-Type": "multipart/form-data"}, FILE, "no boundary"),
    ],
)
def test_a_form_that_is_none_is_refused(refusing, headers, body, message):
    settings, api = refusing
    answer = api.post("/imports", content=body, headers=headers)
    assert answer.status_code == 422
    assert message in answer.json()["message"]
    assert not left_over(settings)


def test_a_large_file_is_refused_and_told_where_there_is_no_limit(refusing):
    settings, api = refusing
    state = api.app.state
    whole = state.runtime
    state.runtime = dataclasses.replace(whole, settings=settings.replaced(max_upload_bytes=100))
    for body in (b"x" * 101, iter([b"x" * 60] * 2)):  # its size is declared, or comes out
        answer = api.post("/imports", content=body)
        assert answer.status_code == 413
        assert "100 bytes" in answer.json()["message"]
        assert answer.json()["message"].endswith("`reckeeper import` reads a file in.")
    assert not left_over(settings)
    state.runtime = whole


def test_a_full_disk_leaves_nothing(refusing, monkeypatch):
    settings, api = refusing

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        usage = type("Usage", (), {"free": 10})
        patch.setattr(uploads.shutil, "disk_usage", lambda _: usage)
        answer = api.post("/imports", content=SHOP)
        assert (answer.status_code, "0.0 MB free" in answer.json()["message"]) == (503, True)
    with monkeypatch.context() as patch:
        patch.setattr(uploads.Upload, "new", full)
        answer = api.post("/imports", content=SHOP)
        assert answer.status_code == 503
        assert "No space left on device" in answer.json()["message"]
    assert not left_over(settings)


def test_leftovers_of_a_process_that_was_killed_are_deleted(settings, database):
    folder = settings.data_dir / "imports"
    with uploads.Upload(folder) as held:
        (folder / "upload-left").mkdir()
        (folder / "upload-left" / ".lock").touch()
        with TestClient(create_app(settings)):
            assert left_over(settings) == [held.folder.name]
    assert not left_over(settings)


def test_an_import_that_runs_is_ended_by_its_undo_and_by_the_servers_end(
    settings, database, monkeypatch
):
    reached, never = threading.Semaphore(0), threading.Event()
    import_file = files.import_file

    def import_slowly(*given, on_progress, **asked):
        def wait(progress: files.Progress) -> None:
            reached.release()
            while not never.wait(0.01):  # what is to end it does so here
                on_progress(progress)

        return import_file(*given, on_progress=wait, **asked)

    monkeypatch.setattr(files, "import_file", import_slowly)
    body = "user_id,item_id\n" + "u,i\n" * 100_000
    with TestClient(create_app(settings)) as api:
        first, second = (api.post("/imports", content=body).json()["import"] for _ in range(2))
        assert all(reached.acquire(timeout=20) for _ in range(2))
        third = api.post("/imports", content=body)
        assert third.status_code == 409
        told = api.get(f"/imports/{first['import_id']}").json()["import"]
        assert (told["status"], told["accepted"]) == ("running", told["rows"])
        undone = api.delete(f"/imports/{first['import_id']}").json()
        assert undone["interactions"] == told["accepted"] > 0
    with database.read() as connection:
        first, second = (storage.imports.get(connection, number) for number in (1, 2))
    assert first.status == "undone"
    assert (second.status, "The server stopped" in second.reason) == ("failed", True)
    until_gone(settings)


def test_demo_data_goes_with_the_first_row_that_is_accepted(settings, database):
    demo.load_if_empty(database, settings.replaced(demo=True))
    with TestClient(create_app(settings)) as api:
        assert ended(api, api.post("/imports", content="user_id,item_id\n,i\n"))["refused"] == 1
        assert api.get("/demo").json()["loaded"]
        assert ended(api, api.post("/imports", content="user_id,item_id\nu,i\n"))["accepted"] == 1
        assert not api.get("/demo").json()["loaded"]


def test_the_routes_take_what_the_command_takes():
    as_the_command = {
        "null_words": "null",
        "has_quotes": "quote",
        "has_escapes": "quote",
        "has_header": "no_header",
    }
    only_there = {"max_ratio"}
    fields = {as_the_command.get(each.name, each.name) for each in dataclasses.fields(FileFormat)}
    assert fields - only_there <= wire.ImportOptions.model_fields.keys()
    asked = importing.asked(
        wire.ImportOptions(null=["-"], quote="none", no_header=True, delimiter="tab"), actor="api"
    )
    assert asked.format == FileFormat(
        null_words=("-",), has_quotes=False, has_header=False, delimiter="\t"
    )
    assert importing.asked(wire.ImportOptions(preset="movielens"), actor="api") == importing.Asked(
        files.MOVIELENS.interactions, files.MOVIELENS.catalogue, {}, "api"
    )
    of_clients = client.ImportOptions.__annotations__.keys()
    assert of_clients == wire.ImportOptions.model_fields.keys() - {"filename"}


def test_what_is_said_of_a_file_names_the_fields_of_the_request(api):
    rows = 'user_id,item_id,occurred_at,stars\nu,i,,1\nu,i,12345,1\n"--time-unit",i,1,1\n'
    empty = "is empty: `default_time` says when that is, such as now"
    number = (
        "is a number that lies before 1990, whatever its unit: `time_unit` names another unit, and "
        "`allow_old` takes it"
    )
    found = api.post("/imports/preview", content=rows).json()
    assert [line["reason"] for line in found["refused"]] == [empty, number, number]
    assert "with `min_rating` it says" in found["notes"][0]
    told = ended(api, api.post("/imports", content=rows))
    assert told["notes"] == found["notes"]
    assert [refusal["reason"] for refusal in told["refusals"]] == [empty, number]
    report = api.get(f"/imports/{told['import_id']}/refused").text
    assert [row[-1] for row in csv.reader(io.StringIO(report))][1:] == [empty, number, number]
    answer = api.post("/imports", content="\n" + rows).json()
    assert "leave it out with `skip_lines`" in answer["message"]
    words = as_fields("raise --max-ratio, not -- or a--sheet")
    assert words == "raise `reckeeper import --max-ratio`, not -- or a--sheet"
    assert as_fields(words) == words


def test_a_preview_says_what_a_file_is_and_stores_nothing(refusing):
    settings, api = refusing
    body = "Kunde;Artikel;Aktion\nu1;i1;click\nu2;i2;kauf\nu2;i3;kauf\n"
    params = {"type_column": "Aktion"}
    found = api.post("/imports/preview", params=params, content=body).json()
    assert (found["form"]["delimiter"], found["form"]["has_header"]) == (";", True)
    assert found["columns"] == ["Kunde", "Artikel", "Aktion"]
    assert [(part["part"], part["rule"]) for part in found["parts"]][-1] == ("item_id", "guessed")
    assert found["types"] == {"kauf": 2, "click": 1}
    assert [(row["user_id"], row["interaction_type"]) for row in found["rows"]] == [("u1", "click")]
    assert {line["value"] for line in found["refused"]} == {"kauf"}
    assert found["cells"][1] == ["u2", "i2", "kauf"]
    weighed = {"type_column": "Aktion", "weights": "kauf=5"}
    assert len(api.post("/imports/preview", params=weighed, content=body).json()["rows"]) == 3
    broken = api.post("/imports/preview", content=b"a,b\n", params={"filename": "my shop.csv"})
    assert broken.json()["message"].startswith("my shop.csv has ")
    assert api.get("/imports").json()["imports"] == []
    assert not left_over(settings)


def test_the_clients_send_files(api, tmp_path):
    server = Client("http://localhost", transport=_transport(api))
    path = tmp_path / "shop.csv"
    path.write_text("Kunde,Artikel,wert\nu1,i1,1\nu2,,1\n")
    assert server.preview_import(path, weight_column="wert").rows[0].user_id == "u1"
    catalogue = io.BytesIO(b"item_id,title\ni1,Film\n")
    begun = server.as_actor("ann").import_file(
        path, filename="mine.csv", catalogue=catalogue, weight_column="wert", null=["-", "?"]
    )
    while (told := server.import_status(begun.import_id)).status == "running":
        time.sleep(0.01)
    assert (told.source, told.actor, told.accepted, told.items) == ("mine.csv", "api:ann", 1, 1)
    assert server.imports(limit=5) == [told]
    assert server.refused_rows(1).startswith(b"file,line,column,value,reason")
    (latest,) = server.latest_interactions(interaction_type="click")
    assert (latest.user_id, latest.title) == ("u1", "Film")
    summary = server.interaction_summary(among=10)
    assert (summary.n, summary.types, summary.items[0].title) == (1, {"click": 1}, "Film")
    assert server.dead_letters().uses_kafka is False
    assert server.undo_import(1).interactions == 1
    with pytest.raises(NotFoundError, match="There is no import 7"):
        server.refused_rows(7)
    with pytest.raises(DataError, match=r"none\.csv cannot be read"):
        server.import_file(tmp_path / "none.csv")


def _transport(api):
    """Return what carries a client's requests to the API under test."""

    def answer(request):
        told = api.request(
            request.method, str(request.url), content=request.read(), headers=request.headers
        )
        return httpx.Response(told.status_code, content=told.content)

    return httpx.MockTransport(answer)


def test_what_late_objects_have_is_told_with_the_import_and_elements_as_such(api, database):
    objects = [{"user_id": f"u{n}", "item_id": "i"} for n in range(5_000)]
    late = {"user_id": "v", "item_id": "i", "time": 1}
    rows = "\n".join(map(json.dumps, [*objects, late, {}]))
    note = (
        "No object before object 5,001 has 'time', which could be the time; it is not used. "
        "`time_column` time takes it."
    )
    found = api.post("/imports/preview", content=rows).json()
    assert (found["notes"], found["form"]["unit"]) == ([note], "line")
    told = ended(api, api.post("/imports", content=rows))
    assert told["notes"] == [note]
    assert api.get("/imports").json()["imports"] == [told]
    with database.read() as connection:
        assert "--time-column time" in storage.imports.get(connection, 1).notes[0]
    rows = json.dumps([{"user_id": "v", "item_id": "i"}, {}, 7])
    assert api.post("/imports/preview", content=rows).json()["form"]["unit"] == "element"
    told = ended(api, api.post("/imports", content=rows))
    assert {each["unit"] for each in told["refusals"]} == {"element"}
    assert {each["examples"][0]["line"] for each in told["refusals"]} == {2, 3}
