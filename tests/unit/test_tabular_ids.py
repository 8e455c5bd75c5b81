"""Files of ids, and files of lists."""

import gzip

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reckeeper import tabular
from reckeeper.errors import DataError

ODD = ["u1", "ü 2,b", "🎬", "4"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("ids.txt", "u1\nü 2,b\n\n🎬\r\n4"),
        ("ids", "\ufeffuser\nu1\nü 2,b\n🎬\n4\n"),
        ("ids.csv", 'n,user\n1,u1\n2,"ü 2,b"\n3,🎬\n4,4\n'),
        ("ids.tsv", "user\tn\nu1\t1\nü 2,b\t2\n🎬\t3\n4\t4\n"),
        ("ids.jsonl", '{"user": "u1"}\n{"user": "ü 2,b"}\n{"user": "🎬"}\n{"user": "4", "n": 1}\n'),
    ],
)
@pytest.mark.parametrize("is_packed", [False, True])
def test_ids_are_read_from_lines_and_from_tables(tmp_path, name, content, is_packed):
    path = tmp_path / (f"{name}.gz" if is_packed else name)
    path.write_bytes(gzip.compress(content.encode()) if is_packed else content.encode())
    assert [found for _, found in tabular.read_ids(path, column="user")] == ODD


def test_ids_in_parquet_may_be_numbers(tmp_path):
    path = tmp_path / "ids.parquet"
    pq.write_table(pa.table({"user": [3, 4], "n": ["a", "b"]}), path)
    assert list(tabular.read_ids(path, column="user")) == [(1, 3), (2, 4)]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("ids.csv", b"usr,n\nu1,1\n", "has no column 'user'"),
        ("ids.csv", b"user,n\nu1,1,2\n", "line 2, has 3 values"),
        ("ids.csv", b"", "is empty"),
        ("ids.jsonl", b'{"user": "u1"}\n{"usr": "u2"}\n', "line 2, has no 'user'"),
        ("ids.jsonl", b'{"user": "u1"}\n{"user\n', "line 2, is no JSON"),
        ("ids.txt", b"u1\n\xff\n", "line 2, is not UTF-8"),
        ("ids.gz", b"\x1f\x8bxx", "cannot be"),
        ("ids.parquet", b"PAR1xx", "not a sound Parquet file"),
    ],
)
def test_a_file_without_ids_says_what_is_wrong(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        list(tabular.read_ids(path, column="user"))
    with pytest.raises(DataError, match="cannot be read"):
        list(tabular.read_ids(tmp_path / "nothing", column="user"))


SCHEMA = pa.schema([("n", pa.int64())])


def batches(*sizes):
    for size in sizes:
        yield pa.record_batch([pa.array(range(size))], schema=SCHEMA)


@pytest.mark.parametrize("sizes", [(), (0,), (3, 0, 600_000, 7)])
def test_batches_become_a_file(tmp_path, sizes):
    path = tmp_path / "lists.parquet"
    assert tabular.write_parquet(path, SCHEMA, batches(*sizes)) == sum(sizes)
    assert pq.read_table(path).num_rows == sum(sizes)
    assert pq.read_schema(path) == SCHEMA
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("failure", [KeyboardInterrupt, DataError("no")])
def test_what_fails_leaves_what_was_there(tmp_path, failure):
    def broken():
        yield from batches(3, 600_000)
        raise failure

    path = tmp_path / "lists.parquet"
    path.write_bytes(b"before")
    with pytest.raises((KeyboardInterrupt, DataError)):
        tabular.write_parquet(path, SCHEMA, broken())
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_is_refused_before_anything_is_made(tmp_path):
    (tmp_path / "folder.parquet").mkdir()
    for path, message in (
        (tmp_path / "lists.csv", "ends in .parquet"),
        (tmp_path / "no-folder" / "lists.parquet", "no-folder does not exist"),
        (tmp_path / "folder.parquet", "is a folder"),
    ):
        with pytest.raises(DataError, match=message):
            tabular.check_output(path)
