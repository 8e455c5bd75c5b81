"""By what the rows of files are known again, on both kinds of database."""

import gzip
from pathlib import Path

import pytest

from reckeeper import storage
from reckeeper.errors import ConflictError
from reckeeper.events import files, repeats
from reckeeper.events.files import FileFormat

CASES = Path(__file__).parents[3] / "shared" / "cases"


@pytest.fixture
def take(tmp_path, database, settings):
    """Return a function that imports a text, or one of the cases, and gives the report."""

    def take(content, **given):
        path = tmp_path / "a.csv"
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif "\n" in content:
            path.write_text(content)
        elif not (path := CASES / content).exists():
            pytest.skip(f"The cases are not in {CASES}")
        return files.import_file(
            database, path, format=FileFormat(**given), settings=settings, actor="test"
        )

    return take


@pytest.fixture
def stored(database):
    """Return a function that gives columns of the interactions, in the order of their event ids."""

    def read(*names):
        with database.read() as connection:
            rows = connection.exec_driver_sql(
                f"SELECT {', '.join(names)} FROM user_interactions ORDER BY event_id"
            )
            return [row[0] if len(names) == 1 else tuple(row) for row in rows]

    return read


# By their own ids


def test_a_growing_export_with_event_ids_counts_each_event_once(take, stored):
    rows = [
        "event_id,user_id,item_id,occurred_at\n",
        "e1,u1,a,2026-01-01T00:00:00Z\n",
        "e2,u2,b,2026-01-01T01:00:00Z\n",
        "e3,u1,b,2026-01-02T00:00:00Z\n",
    ]
    take("".join(rows[:3]))
    report = take("".join([*rows, ",u3,c,2026-01-02T00:00:00Z\n"]))
    assert (report.accepted, report.duplicates, report.refused) == (1, 2, 1)
    assert report.first_refused[0].column == "event_id"
    assert stored("event_id") == ["e1", "e2", "e3"]
    named = "key,user_id,item_id\ne1,u9,z\nk2,u9,z\n"
    assert take(named, event_id_column="key").duplicates == 1


# By user, item, type, weight and time


EARLY = "user,item,ts\nu1,a,2026-01-01\nu2,b,2026-01-01\nu2,b,2026-01-01\n"


def test_a_growing_export_counts_each_row_once(take, stored):
    assert take("day1.csv").accepted == 2
    assert take("day2.csv").accepted == 1
    assert take(EARLY).accepted == 3  # equal rows of a file are several
    grown = take(EARLY + "u3,c,2026-01-02\nu2,b,2026-01-01\n")
    assert (grown.accepted, grown.duplicates, grown.notes) == (2, 3, [])
    header, *rows = EARLY.splitlines(keepends=True)
    assert take(header + "".join(rows[::-1])).accepted == 0
    assert take(gzip.compress(EARLY.encode())).accepted == 0


def test_a_rating_is_the_same_row_whatever_is_liked(take, stored):
    ratings = "userId,movieId,rating,timestamp\n1,10,3.5,1000000000\n"
    take(ratings, min_rating=4)
    assert take(ratings + "1,11,5,1000000000\n", min_rating=3).accepted == 1
    assert sorted(stored("item_id", "weight")) == [("10", 0.0), ("11", 1.0)]


def test_a_file_of_an_earlier_release_is_known_by_its_lines(take, stored, monkeypatch):
    with monkeypatch.context() as earlier:
        earlier.setattr(repeats, "are_known_by_lines", lambda *_, **__: True)
        assert take(EARLY).accepted == 3
    again = take(EARLY)
    assert (again.accepted, again.duplicates) == (0, 3)
    grown = take(EARLY + "u3,c,2026-01-02\n")
    assert "3 of the first 4 rows are in the table already" in grown.notes[0]


def test_the_same_file_is_not_read_in_two_ways(take, database):
    first = take(EARLY)
    with pytest.raises(ConflictError, match=f"import {first.import_id}.*undo that import"):
        take(EARLY, timezone="Asia/Tokyo")
    with pytest.raises(ConflictError, match="read otherwise now"):
        take(EARLY, user_column="item", item_column="item")
    files.undo(database, first.import_id, actor="test")
    assert take(EARLY, timezone="Asia/Tokyo").accepted == 3


def test_several_files_of_an_export_count_each_row_once(tmp_path, database, settings):
    def take(**given):
        paths = sorted(tmp_path.glob("day*.csv"))
        return files.import_file(
            database, paths, format=FileFormat(**given), settings=settings, actor="test"
        )

    (tmp_path / "day1.csv").write_text(EARLY)
    (tmp_path / "day2.csv").write_text(EARLY + "u3,c,2026-01-02\n")
    assert (take().accepted, take().accepted) == (4, 0)
    with pytest.raises(ConflictError, match="read otherwise now"):
        take(timezone="Asia/Tokyo")


def test_rows_without_times_that_are_there_already_are_told(take):
    rows = "user_id,item_id\nu1,a\nu2,b\n"
    assert take(rows).notes == []
    assert take(rows).notes == []  # the very file
    (note,) = take(rows + "u3,c\n").notes
    assert note.startswith("2 of the first 3 rows are in the table already")


# By file and line


def test_a_repeat_is_harmless(database, take, stored, tmp_path):
    rows = "user_id,item_id\n" + "u,i\n" * 5
    first, second = take(rows), take(rows)
    assert (first.accepted, first.duplicates) == (5, 0)
    assert (second.accepted, second.duplicates) == (0, 5)
    content = files.fingerprint(tmp_path / "a.csv")
    assert stored("event_id") == [f"import-{content[:16]}-{line:012d}" for line in range(2, 7)]
    with database.read() as connection:
        assert storage.imports.get(connection, second.import_id).fingerprint == content
    files.undo(database, second.import_id, actor="test")
    assert len(stored("event_id")) == 5
    files.undo(database, first.import_id, actor="test")
    assert stored("event_id") == []
    assert take(rows).accepted == 5


def test_rows_of_other_files_are_no_duplicates(take):
    take("user_id,item_id\nu,i\n")
    assert take("user_id,item_id\nu,i\nv,i\n").accepted == 2


@pytest.mark.parametrize(
    ("rows", "n_known"),
    [
        ("event_id,user_id,item_id\n" + "e1,u,i\n" * 3, 1),
        ("user_id,item_id,occurred_at\n" + "u,i,2026-01-01\n" * 3, 3),
        ("user_id,item_id\n" + "u,i\n" * 3, 3),
    ],
    ids=["by event id", "by time", "by line"],
)
def test_equal_rows_of_one_file_are_several_but_for_those_of_one_event(take, rows, n_known):
    report = take(rows)
    assert (report.accepted, report.duplicates) == (n_known, 3 - n_known)
    again = take(rows)
    assert (again.accepted, again.duplicates) == (0, 3)
