"""Several files in one import, and standard input."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reckeeper import storage
from reckeeper.cli.file_options import files_of
from reckeeper.config import Settings
from reckeeper.errors import DataError
from reckeeper.events import files

HEADER = "user_id,item_id\n"


@pytest.fixture
def take(database: storage.Database, settings: Settings) -> Callable[..., files.ImportReport]:
    def take(origin: Any, **more: Any) -> files.ImportReport:
        return files.import_file(
            database, origin, format=files.FileFormat(), settings=settings, actor="test", **more
        )

    return take


def imports(database: storage.Database) -> list[storage.Import]:
    with database.read() as connection:
        return storage.imports.all_imports(connection)


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    """Files of several forms, two of one name."""
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    paths = [folders[0] / "day.csv", folders[1] / "day.csv", folders[1] / "other.tsv"]
    paths[0].write_text(HEADER + "u1,i1\n,i2\nu3,i3\n")
    paths[1].write_text((HEADER + "u4,i4\nu5,\n").replace(",", ";"))
    paths[2].write_text((HEADER + "u1,i1\nu1\n").replace(",", "\t"))
    return paths


def test_several_files_are_one_import(three, database, take):
    progress: list[files.Progress] = []
    report = take(three, on_progress=progress.append)
    assert (report.accepted, report.duplicates, report.refused) == (4, 0, 3)
    assert [(line.file, line.line) for line in report.first_refused] == [
        (str(three[0]), 3),
        (str(three[1]), 3),
        ("other.tsv", 3),
    ]
    assert report.read_as == {
        str(three[0]): "text in utf-8, commas between values",
        str(three[1]): "text in utf-8, semicolons between values",
        "other.tsv": "text in utf-8, tabs between values",
    }
    n_bytes = sum(path.stat().st_size for path in three)
    assert progress[-1] == files.Progress(7, n_bytes, n_bytes)
    (one,) = imports(database)
    assert one.source == ", ".join(map(str, three))


def test_rows_are_known_by_the_content_of_each_file(three, tmp_path, take):
    assert take(three[1]).accepted == 1
    renamed = three[0].rename(tmp_path / "renamed.csv")
    report = take([three[2], renamed, three[1]])
    assert (report.accepted, report.duplicates) == (3, 1)
    assert take([three[1], renamed]).duplicates == 3


def test_one_bad_file_of_several_is_an_error_before_anything_is_written(
    three, tmp_path, database, take
):
    bad = tmp_path / "bad.csv"
    for content, words in [("", "is empty"), (HEADER, "no rows"), ("who\nu\n", "no column")]:
        bad.write_text(content)
        with pytest.raises(DataError, match=rf"bad\.csv.*{words}"):
            take([*three, bad])
    with pytest.raises(DataError, match=r"none\.csv cannot be read"):
        take([*three, tmp_path / "none.csv"])
    assert imports(database) == []


def test_many_files_are_named_in_few_words(tmp_path, database, take):
    paths = [tmp_path / f"{number}.csv" for number in range(5)]
    for path in paths:
        path.write_text(HEADER + f"u,{path.stem}\n")
    assert take(paths).accepted == 5
    assert imports(database)[0].source == f"{paths[0]}, {paths[1]}, {paths[2]} and 2 more"


def test_what_comes_in_is_stored_while_it_is_read(settings, database, take):
    (settings.data_dir / "imports").mkdir(parents=True)
    (settings.data_dir / "imports" / "stdin-killed").touch()
    for content, n_rows in [(HEADER + "u,i\n,i\n", 1), (HEADER.replace(",", ";") + "v;i\n", 1)]:
        with files.spooled(io.BytesIO(content.encode()), settings) as path:
            assert path.parent == settings.data_dir / "imports"
            with files.spooled(io.BytesIO(b"x"), settings):
                assert path.exists()
            report = take(path, called=files.STANDARD_INPUT)
        assert not path.exists()
        assert report.accepted == n_rows
    assert not [*(settings.data_dir / "imports").glob("stdin-*")]
    assert {line.source for line in imports(database)} == {"standard input"}
    with (
        pytest.raises(DataError, match=r"^standard input is empty"),
        files.spooled(io.BytesIO(b""), settings) as path,
    ):
        take(path, called=files.STANDARD_INPUT)
    assert not path.exists()


def test_patterns_are_files_in_the_order_of_their_names(tmp_path):
    names = ["b.csv", "a.csv", "c.txt", "[x].csv"]
    for name in names:
        (tmp_path / name).touch()
    (tmp_path / "folder.csv").mkdir()
    found = files_of([tmp_path / "?.csv", tmp_path / "a.csv", tmp_path / "[x].csv"])
    assert [path.name for path in found] == ["a.csv", "b.csv", "[x].csv"]
    assert [path.name for path in files_of([tmp_path / "**" / "*.csv"])] == [
        "[x].csv",
        "a.csv",
        "b.csv",
    ]
    with pytest.raises(DataError, match=r"No file is named as .*\*\.parquet says"):
        files_of([tmp_path / "*.parquet"])
