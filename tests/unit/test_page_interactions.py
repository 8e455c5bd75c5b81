"""The page Interactions, run by Streamlit's own test runner against a real server."""

import os
import socket
import time

from tests.system.installation import wait_until
from tests.unit.test_frontend import opened, plain, press, read, run

from reckeeper import policy as policies
from reckeeper import storage
from reckeeper.events import demo

PAGE = "pages/3_Interactions.py"
SHOP = (
    "Kunde;Artikel;Was;Datum\n"
    "K1;A1;kauf;2013-05-28T14:03:00Z\n"
    "K2;A1;click;2013-05-28T14:04:00Z\n"
    "K2;A2;kauf;gestern\n"
).encode("latin-1")


def box(at, label):
    (found,) = [each for each in at.selectbox if each.label == label]
    return found


def tables(at):
    return [each.value for each in at.table]


def when_ended(at):
    give_up_at = time.monotonic() + 20
    while any("Running" in text for text in read(at.markdown)):
        assert time.monotonic() < give_up_at
        at = run(at)
    return at


def test_a_file_is_dropped_put_right_imported_and_undone(server, database):
    at = opened(PAGE)
    assert read(at.main.caption) == ["No interactions so far."]
    assert "reckeeper import FILE" in [each.value for each in at.code]
    at = run(at.file_uploader[0].set_value(("shop.csv", SHOP, "text/csv")))
    assert "Text in utf-8, semicolons between values" in " ".join(read(at.markdown))
    chosen = {each.label: each.value for each in at.selectbox}
    assert (chosen["User"], chosen["Item"], chosen["Time"]) == ("Kunde", "Artikel", "Datum")
    assert chosen["Type"] == "—"
    assert any("Datum “gestern” is not a time" in text for text in read(at.warning))
    at = run(box(at, "Type").set_value("Was"))
    labels = [plain(each.label) for each in at.number_input][2:4]
    assert labels == ["kauf (2 rows, new)", "click (1 row)"]
    assert list(tables(at)[0]["type"]) == ["kauf", "click"]
    command = "reckeeper import shop.csv --type-column Was --weights kauf=1"
    assert command in [each.value for each in at.code]
    at = run(at.number_input[2].set_value(3.0))
    at = when_ended(press(at, "Import shop\\.csv"))
    with database.read() as connection:
        assert policies.current(connection, server).policy.weights["kauf"] == 3.0
    metrics = {each.label: each.value for each in at.metric}
    assert (metrics["New"], metrics["Refused"]) == ("2", "1")
    refused, latest, users, items = tables(at)
    assert list(refused["such as"]) == ["line 4: gestern"]
    assert list(latest["user"]) == ["K2", "K1"]
    assert (len(users), items["item"].tolist()) == (2, ["A1"])
    at = press(at, "Yes, take it out")
    assert read(at.toast) == ["Import 1 is undone."]
    assert read(run(at).main.caption) == ["No interactions so far."]


def test_what_has_to_be_said_is_asked(server):
    at = run(opened(PAGE).file_uploader[0].set_value(("a.csv", b"a,b\nu,i\n", "text/csv")))
    assert box(at, "User").value is None
    assert any("no column is known to be the user" in text for text in read(at.warning))
    (begin,) = [each for each in at.button if each.label == "Import a\\.csv"]
    assert begin.disabled
    at = run(box(at, "User").set_value("a"))
    at = run(box(at, "Item").set_value("b"))
    assert tables(at)[0]["user"].tolist() == ["u"]
    at = run(at.file_uploader[0].set_value(("b.csv", b"", "text/csv")))
    assert any("The file is empty" in text for text in read(at.error))


def test_what_is_said_of_a_file_names_the_fields_of_the_page(server):
    rows = b"user_id,item_id,occurred_at\nu,i,12345\nu,i,\nu,i,1700000000\n"
    at = run(opened(PAGE).file_uploader[0].set_value(("a.csv", rows, "text/csv")))
    (told,) = [text for text in read(at.warning) if "of the first rows" in text]
    assert "“Times that are numbers” names another unit, and `reckeeper import --allow-old`" in told
    at = when_ended(press(at, "Import a\\.csv"))
    assert "“Times that are numbers”" in tables(at)[0]["why"][0]
    assert "`reckeeper import --default-time` says when" in tables(at)[0]["why"][1]
    at = run(at.file_uploader[0].set_value(("b.csv", b"\n" + rows, "text/csv")))
    assert any("leave it out with “Lines before the table”" in text for text in read(at.error))


def test_an_import_that_failed_says_why(server, database):
    with database.write() as connection:
        storage.imports.begin(connection, source="/x/a.csv", fingerprint="f")
        storage.imports.fail(connection, 1, reason="It broke.")
    at = opened(PAGE)
    assert "It broke." in read(at.error)


def test_a_sender_that_hangs_up_leaves_nothing(server):
    host, port = os.environ["RECKEEPER_SERVER_URL"].removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as sender:
        head = "POST /imports HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
        sender.sendall(head.encode() + SHOP)
        folder = server.data_dir / "imports"
        wait_until(lambda: list(folder.glob("upload-*/file/*")), "the file comes in")
    wait_until(lambda: not list(folder.glob("upload-*")), "it is deleted")


def test_importing_is_offered_where_there_is_nothing_and_beside_the_demo_data(server, database):
    assert "Import a file" in [link.label for link in opened().page_link]
    demo.load_if_empty(database, server.replaced(demo=True))
    labels = [link.label for link in opened().page_link]
    assert "Import your own" in labels
    assert "Import a file" not in labels


def test_a_person_is_erased_and_the_receipt_shown(server, database):
    with database.write() as connection:
        row = ("e", "anna", "i", "click", 1.0, 1_700_000_000_000_000)
        storage.interactions.append(connection, [row])
    at = opened(PAGE)
    at = run(at.text_input(key="erased user").set_value("anna"))
    at = press(at, "Yes, erase this person")
    assert read(at.toast) == ["This person is erased."]
    receipt = tables(at)[-1]
    facts = dict(zip(receipt[""], receipt["receipt"], strict=True))
    assert (facts["Removed"], facts["State"]) == ("1 user interactions", "Complete")
    with database.read() as connection:
        assert storage.interactions.is_empty(connection)
        assert policies.current(connection, server).policy.retention_days is None
    at = run(next(each for each in at.number_input if "Keep" in each.label).set_value(90.0))
    at = press(at, "Save")
    with database.read() as connection:
        assert policies.current(connection, server).policy.retention_days == 90.0


def test_notes_and_places_of_an_import_are_told_as_they_are_counted(server):
    rows = b'[{"user_id": "u", "item_id": "i", "stars": 5}, {"user_id": 1, "item_id" 2}, {}]'
    at = run(opened(PAGE).file_uploader[0].set_value(("a.json", rows, "application/json")))
    note = "The column 'stars' is not used: with “Least rating that is liked” it says which rows"
    assert any(text.startswith(note) for text in read(at.caption))
    assert tables(at)[0].columns[0] == "element"
    assert any("would be refused: element 2" in text for text in read(at.warning))
    at = when_ended(press(at, "Import a\\.json"))
    assert any(text.startswith(note) for text in read(at.caption))
    refused = tables(at)[0]
    assert [text.split(":")[0] for text in refused["such as"]] == ["element 2", "element 3"]
