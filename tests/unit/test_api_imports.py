"""Files that are sent to be imported: what the routes take, refuse, tell and undo."""

import csv
import dataclasses
import errno
import gzip
import io
import shutil
import threading
import time

import pytest
from fastapi.testclient import TestClient
from tests.conftest import settings_in

from reckeeper import storage, wire
from reckeeper.api import importing, uploads
from reckeeper.api.app import create_app
from reckeeper.events import demo, files
from reckeeper.events.files import FileFormat

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
    again = ended(api, api.post("/imports", params=params, content=SHOP))
    assert (again["accepted"], again["duplicates"]) == (0, 2)
    assert [each["import_id"] for each in api.get("/imports").json()["imports"]] == [2, 1]
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
        ({"rating_column": "wert"}, SHOP.encode(), "least rating"),
    ],
)
def test_what_cannot_be_imported_is_said_at_once(refusing, params, body, message):
    settings, api = refusing
    answer = api.post("/imports", params=params, content=body)
    assert answer.status_code == 422
    assert message in answer.json()["message"]
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
    reached, may_go_on = threading.Event(), threading.Event()
    import_file = files.import_file

    def import_slowly(*given, on_progress, **asked):
        def wait(progress: files.Progress) -> None:
            reached.set()
            assert may_go_on.wait(20)
            on_progress(progress)

        return import_file(*given, on_progress=wait, **asked)

    monkeypatch.setattr(files, "import_file", import_slowly)
    body = "user_id,item_id\n" + "u,i\n" * 100_000
    with TestClient(create_app(settings)) as api:
        first, second = (api.post("/imports", content=body).json()["import"] for _ in range(2))
        assert reached.wait(20)
        third = api.post("/imports", content=body)
        assert third.status_code == 409
        told = api.get(f"/imports/{first['import_id']}").json()["import"]
        assert (told["status"], told["accepted"]) == ("running", told["rows"])
        undone = api.delete(f"/imports/{first['import_id']}").json()
        assert undone["interactions"] == told["accepted"] > 0
        threading.Timer(0.2, may_go_on.set).start()  # once the server is about to stop
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
    as_the_command = {"null_words": "null", "has_quotes": "quote", "has_header": "no_header"}
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
        files.MOVIELENS.interactions, files.MOVIELENS.catalogue, "api"
    )
