"""What stands under the processes breaks: a file, a disk. What was acknowledged is kept."""

import contextlib
import os
import shutil
import socket
import sqlite3
import struct
import subprocess
import sys
import threading

import httpx
import pytest
from tests.system.installation import Installation, require, wait_until

from reckeeper import artifact


def click(event_id):
    return {"event_id": event_id, "user_id": "u", "item_id": "i", "interaction_type": "click"}


@contextlib.contextmanager
def posting(site):
    """Post from several threads within the block; gives the ids that were answered with 200."""
    acknowledged, refused, stop = [], [], threading.Event()

    def post(name):
        number = 0
        with httpx.Client(base_url=site.server.base_url, trust_env=False, timeout=30) as client:
            while not stop.is_set():
                number += 1
                answer = client.post("/user_interactions", json=click(f"{name}-{number}"))
                if answer.status_code == 200:
                    acknowledged.append(f"{name}-{number}")
                else:
                    refused.append((answer.status_code, answer.json()["message"]))
                    stop.wait(0.05)

    threads = [threading.Thread(target=post, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    try:
        yield acknowledged, refused
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def stored(file):
    with contextlib.closing(sqlite3.connect(file)) as connection:
        return {row[0] for row in connection.execute("SELECT event_id FROM user_interactions")}


def whole_copy(file, to):
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("VACUUM INTO ?", (str(to),))
    return to


def ready(process):
    answer = process.get("/health/ready")
    return answer.status_code, " ".join(answer.json()["problems"])


@pytest.mark.fault(
    "The database's file is deleted, replaced or copied over under running processes",
    seen="within a second 503 with what to do, `/health/ready` too",
    kept="everything that was accepted, in the file that was there",
    heals="by putting the file back, or a backup and a restart",
)
@pytest.mark.parametrize("how", ["deleted", "replaced", "copied over"])
def test_a_database_that_goes_under_running_processes_loses_nothing_acknowledged(installation, how):
    file = installation.data_dir / "reckeeper.sqlite3"
    installation.start_server()
    installation.start_worker()
    copy = whole_copy(file, installation.folder / "copy")
    kept = installation.folder / "kept"
    with posting(installation) as (acknowledged, refused):
        wait_until(lambda: len(acknowledged) > 50, "interactions are stored")
        if how == "deleted":
            file.rename(kept)
        elif how == "replaced":
            os.link(file, kept)
            copy.rename(file)
        else:
            shutil.copyfile(copy, file)
        wait_until(lambda: len(refused) > 8, "the others are refused")
        told = wait_until(
            lambda: (
                [ready(each) for each in (installation.server, installation.worker)]
                if all(ready(each)[0] == 503 for each in (installation.server, installation.worker))
                else None
            ),
            "both processes say that they are not ready",
            seconds=3,
        )
    for _, problem in told:
        assert "of Reckeeper" in problem, problem
    assert {status for status, _ in refused} == {503}
    if how == "copied over":
        return  # what stands there holds nothing together: a backup is needed
    kept.replace(file)  # with its log beside it
    wait_until(lambda: ready(installation.server)[0] == 200, "it is taken up again")
    assert set(acknowledged) <= stored(file)
    assert installation.server.post("/user_interactions", json=click("z")).status_code == 200


@pytest.mark.fault(
    "The database's file is damaged",
    seen="no process starts, and `reckeeper check` says what is wrong",
    kept="what the damage has left: nothing is written to it",
    heals="by a backup",
)
def test_a_malformed_database_is_not_served_and_said_by_check(installation):
    file = installation.data_dir / "reckeeper.sqlite3"
    assert "database: whole." in installation.run("check").stdout
    with installation.database() as connection:
        connection.executemany(
            "INSERT INTO items VALUES (?, ?, '[]', '{}', 1, NULL, NULL, ?, 0, NULL, 1)",
            [(f"i{number}", "title" * 9, "title" * 9) for number in range(5000)],
        )
    n_pages = file.stat().st_size // 4096
    with file.open("r+b") as stream:
        stream.seek(n_pages * 3 // 4 * 4096)
        stream.write(b"\xff" * 4096 * (n_pages // 4))
    for command in ("check", "up", "migrate"):
        done = installation.run(command, check=False)
        assert done.returncode in {1, 2}
        assert "malformed" in done.stderr, done
        assert "Traceback" not in done.stderr
    server = installation.start("server", [sys.executable, "server/server.py"])
    assert server.wait() == 2
    assert "malformed" in server.text()


@pytest.fixture
def small_disk(tmp_path):
    """Give a folder with 24 MB of room."""
    require(os.geteuid() == 0, "only root can make a small disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24m,mode=0755", "none", disk]
    require(subprocess.run(command, check=False).returncode == 0, "no disk can be mounted")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def fill(disk):
    ballast = disk / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        for size in (64 * 1024, 4096, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))
    return ballast


@pytest.mark.fault(
    "The disk of an embedded installation is full",
    seen="503 for what writes; `/health/ready` says so; lists go on",
    kept="everything that was accepted",
    heals="by itself, once there is room",
)
def test_a_full_disk_is_told_while_writes_fail_and_no_longer_when_they_do_not(small_disk):
    with Installation(small_disk) as site:
        site.migrate()
        server = site.start_server()
        assert site.server.post("/user_interactions", json=click("a")).status_code == 200
        ballast = fill(small_disk)

        def refused():
            rows = [click(f"e{os.urandom(4).hex()}") for _ in range(500)]
            answer = site.server.post("/user_interactions", json=rows)
            return answer if answer.status_code == 503 else None

        answer = wait_until(refused, "the log has no room left")
        assert "disk has room" in answer.json()["message"]
        status, problem = wait_until(lambda: ready(site.server), "it says so")
        assert "disk has room" in problem
        assert status == 200, "lists are made from memory"
        assert site.server.get("/recommendations/u").status_code == 200
        ballast.unlink()
        wait_until(lambda: ready(site.server) == (200, ""), "it finds out by itself")
        assert site.server.post("/user_interactions", json=click("b")).status_code == 200
        assert "Traceback" not in server.text()


@pytest.mark.fault(
    "The disk has no room for a download",
    seen="503 that says so",
    kept="everything",
    heals="by room",
)
def test_a_download_without_room_is_no_damaged_artifact(small_disk, trained_once):
    with Installation(small_disk) as site:
        site.take_over(trained_once)
        site.start_server()
        ballast = fill(small_disk)
        answer = site.server.get("/models/2/download")
        assert (answer.status_code, answer.json()["code"]) == (503, "storage_failed")
        assert "No space left" in answer.json()["message"]
        ballast.unlink()
        assert site.server.get("/models/2/download").status_code == 200


@pytest.mark.fault(
    "A disk that the log of SQLite alone would fill",
    seen="nothing",
    kept="everything",
    heals="the log stays below 4 MB there",
)
def test_the_log_takes_little_of_a_small_disk(small_disk):
    with Installation(small_disk) as site:
        site.migrate()
        site.start_server()
        log = site.data_dir / "reckeeper.sqlite3-wal"
        largest = 0
        for batch in range(20):
            rows = [
                {**click(f"{batch}-{number}"), "user_id": f"u{number}"} for number in range(500)
            ]
            assert site.server.post("/user_interactions", json=rows).status_code == 200
            largest = max(largest, log.stat().st_size)
        assert largest < 4 * 1024 * 1024, "with 64 MiB it would fill the disk"


@pytest.mark.fault(
    "`up` is started on a full disk",
    seen="one sentence that says so",
    kept="everything",
    heals="by room",
)
def test_up_on_a_full_disk_says_so_in_one_sentence(small_disk):
    with Installation(small_disk) as site:
        site.migrate()
        fill(small_disk)
        done = site.run("up", check=False)
        assert done.returncode in {1, 2}
        said = done.stdout + done.stderr
        assert "No space left on device" in said or "full" in said, said
        assert "Traceback" not in said
        assert len(done.stderr.strip().splitlines()) == 1, said


@pytest.mark.fault(
    "The disk of an embedded installation takes no writes",
    seen="`up` and every command that writes end with one sentence",
    kept="everything",
    heals="by a disk that may be written to",
)
def test_a_disk_that_takes_no_writes_is_told(small_disk, tmp_path, trained_once):
    with Installation(tmp_path, RECKEEPER_DATA_DIR=str(small_disk / "data")) as site:
        site.data_dir = small_disk / "data"
        site.take_over(trained_once)
        subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
        for command in (("up",), ("keys", "create", "k", "--role", "viewer")):
            done = site.run(*command, check=False)
            assert done.returncode in {1, 2}, done
            said = done.stdout + done.stderr
            assert "Traceback" not in said
            assert "ead-only" in said or "unable to open" in said, said
        subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
        assert "database: whole." in site.run("check").stdout


@pytest.mark.fault(
    "The disk of the models is full while one is trained",
    seen="the job fails and says so; lists go on",
    kept="versions and files, as they were",
    heals="the next retrain works once there is room",
)
@pytest.mark.fault(
    "The folder of the models is deleted under running processes",
    seen="lists go on, from memory; a download says so",
    kept="interactions, and what the database knows of the versions",
    heals="the next retrain makes the folder, and a version that serves",
)
def test_models_without_room_or_folder(small_disk, tmp_path, trained_once):
    with Installation(tmp_path, RECKEEPER_MODEL_DIR=str(small_disk / "models")) as site:
        site.model_dir = small_disk / "models"
        site.take_over(trained_once)
        server, worker = site.start_server(), site.start_worker()
        before = sorted(site.model_dir.iterdir())

        def lists_go_on():
            return site.server.get("/recommendations/u1").json()["model_version"] == 2

        ballast = fill(small_disk)
        answer = site.server.post("/retrain")
        assert answer.status_code >= 500, answer.text
        assert "No space left" in answer.json()["message"]
        assert lists_go_on()
        ballast.unlink()
        assert sorted(site.model_dir.iterdir()) == before
        shutil.rmtree(site.model_dir)
        assert lists_go_on()
        answer = site.server.get("/models/2/download")
        assert (answer.status_code, answer.json()["code"]) == (409, "damaged_artifact")
        assert "could not be bundled: No such file" in answer.json()["message"]
        assert str(site.model_dir) not in answer.text
        newer = site.retrain()
        assert site.active()["version"] == newer
        assert site.server.get("/recommendations/u1").json()["model_version"] == newer
        assert "Traceback" not in server.text() + worker.text()


def begin_upload(site, path, n_bytes=1_000_000):
    """Send the head of a request and half of its body, and return the connection."""
    connection = socket.create_connection(("127.0.0.1", site.server_port), timeout=30)
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{site.server_port}\r\n"
        f"Content-Length: {n_bytes}\r\nContent-Type: application/zip\r\n\r\n"
    )
    connection.sendall(head.encode() + b"user_id,item_id\n" * (n_bytes // 32))
    return connection


@pytest.mark.fault(
    "The server is killed during an upload",
    seen="the sender's connection breaks",
    kept="nothing of the upload",
    heals="what was stored of it goes at the next start",
)
def test_an_upload_that_a_kill_has_cut_is_gone_at_the_next_start(installation):
    server = installation.start_server()
    cut = [begin_upload(installation, path) for path in ("/models/import", "/imports")]
    wait_until(lambda: len(scratch(installation)) == 2, "both are being stored")
    server.kill()
    for connection in cut:
        connection.close()
    assert len(scratch(installation)) == 2
    installation.start_server()
    assert scratch(installation) == []


def scratch(site):
    models = site.model_dir.glob(f"{artifact.SCRATCH}*")
    return [*models, *(site.data_dir / "imports").glob("upload-*")]


def test_uploads_at_once_are_bounded(installation):
    installation.start_server()
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(begin_upload(installation, "/models/import"))
        wait_until(lambda: len(scratch(installation)) == 8, "all are being stored")
        answer = installation.server.post("/models/import", content=b"PK")
        assert answer.status_code == 503
        assert "being taken in" in answer.json()["message"]
        assert int(answer.headers["Retry-After"]) > 0
    wait_until(lambda: scratch(installation) == [], "they go with those who hung up")
    assert installation.server.post("/models/import", content=b"PK").status_code == 422


@pytest.mark.fault(
    "Clients hang up in the middle",
    seen="nothing, and no traceback in a log",
    kept="everything that was accepted",
    heals="nothing is broken",
)
def test_who_hangs_up_in_the_middle_writes_no_traceback(trained):
    server, worker = trained.start_server(), trained.start_worker()
    for path in ("/user_interactions", "/imports", "/models/import", "/retrain", "/items"):
        begin_upload(trained, path).close()
    for path in ("/jobs/1/stream", "/models/1/download", "/recommendations/u1", "/audit"):
        with socket.create_connection(("127.0.0.1", trained.server_port)) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            host = f"Host: 127.0.0.1:{trained.server_port}"
            connection.sendall(f"GET {path} HTTP/1.1\r\n{host}\r\n\r\n".encode())
    for path in ("/retrain", "/evaluations"):
        with socket.create_connection(("127.0.0.1", trained.worker_port)) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            host = f"Host: 127.0.0.1:{trained.worker_port}\r\nContent-Length: 100"
            connection.sendall(f"POST {path} HTTP/1.1\r\n{host}\r\n\r\n{{".encode())
    assert trained.server.get("/recommendations/u1").status_code == 200
    assert trained.worker.get("/health/ready").status_code == 200
    assert server.stop() in {0, -15}
    assert worker.stop() == 0
    assert "Traceback" not in server.text() + worker.text()


def test_what_holds_peoples_data_is_for_its_user_alone(installation):
    installation.start_server()
    installation.start_worker()
    installation.send([{**click(f"e{n}"), "user_id": f"u{n % 9}", "item_id": f"i{n % 7}"}
                       for n in range(60)])  # fmt: skip
    installation.retrain()
    found = [
        path
        for folder in (installation.data_dir, installation.model_dir)
        for path in [folder, *folder.rglob("*")]
        if not path.is_symlink()
    ]
    assert len(found) > 6
    modes = {path: path.stat().st_mode & 0o777 for path in found}
    wrong = {path: oct(mode) for path, mode in modes.items() if mode & 0o077}
    assert wrong == {}
