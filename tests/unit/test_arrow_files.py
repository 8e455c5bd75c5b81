"""Parquet and Arrow files: what they unpack to is known before, and rows are read as they are."""

import itertools
from pathlib import Path

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from reckeeper import tabular
from reckeeper.cli.evaluation_files import Columns, read_interactions
from reckeeper.errors import DataError
from reckeeper.events import files
from reckeeper.events.previews import preview
from reckeeper.tabular import arrow_files, plain_sizes

N = 1_000
TEXT = pa.array([f"{n % 7}" * (n % 40) for n in range(N)])
LISTS = pa.ListArray.from_arrays(range(N + 1), TEXT)
FORMS = {
    "text": TEXT,
    "dictionary": TEXT.dictionary_encode(),
    "views": TEXT.cast(pa.string_view()),
    "lists": LISTS,
    "list views": pa.ListViewArray.from_arrays([*range(N)], [1] * N, TEXT),
    "runs": pa.RunEndEncodedArray.from_arrays(range(1, N + 1), TEXT),
    "structs": pa.StructArray.from_arrays([TEXT], ["of"]),
    "numbers": pa.array(range(N)),
    "few bytes": pa.array([b"%016d" % n for n in range(N)], pa.binary(16)).dictionary_encode(),
}

PLAIN = {"text", "lists", "structs", "numbers"}


def read(path, at_most=50_000):
    with tabular.open_source(path) as source:
        chunks = list(source.chunks(source.columns, at_most=at_most))
    lines = list(itertools.chain.from_iterable(chunk.lines.tolist() for chunk in chunks))
    values = [value for chunk in chunks for value in chunk.columns[source.columns[0]].to_pylist()]
    return lines, values, len(chunks)


def write(path, values, **how):
    table = pa.table({"a": values})
    if path.suffix == ".parquet":
        pq.write_table(table, path, **{"compression": "zstd", "row_group_size": 400, **how})
    else:
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        make = pa.ipc.new_stream if path.suffix == ".arrows" else pa.ipc.new_file
        with make(str(path), table.schema, options=options) as writer:
            writer.write_table(table, max_chunksize=400)


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".arrows"])
@pytest.mark.parametrize("form", FORMS)
def test_rows_are_the_same_however_few_are_read_at_once(tmp_path, monkeypatch, form, suffix):
    path = tmp_path / f"a{suffix}"
    try:
        write(path, FORMS[form])
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        assert (form, suffix) in {("runs", ".parquet"), ("list views", ".parquet")}
        return
    lines, whole, _ = read(path)
    assert lines == [*range(1, N + 1)]
    monkeypatch.setattr(plain_sizes, "MOST_BYTES", 500)
    monkeypatch.setattr(arrow_files, "MOST_BYTES", 5_000)
    lines, values, n_chunks = read(path)
    assert (lines, values) == ([*range(1, N + 1)], whole)
    is_kept_in_little = {"text", "dictionary"} if suffix == ".parquet" else {*FORMS} - PLAIN
    assert n_chunks > 8 or form not in is_kept_in_little


@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_a_page_is_refused_for_what_its_head_says(tmp_path, monkeypatch, version):
    path = tmp_path / "a.parquet"
    page = r"a page in its column 'a' that unpacks to \d\d,\d{3} bytes, and at most 10,000"
    monkeypatch.setattr(arrow_files, "_MOST_UNPACKED", 10_000)
    for how in ({"use_dictionary": False}, {}):
        write(path, TEXT, data_page_version=version, **how)
        lines, *_ = read(path)
        assert len(lines) == N
        write(path, pa.array([str(n) * 10 for n in range(N)]), data_page_version=version, **how)
        with pytest.raises(DataError, match=page):
            read(path)
    write(path, pa.nulls(N, pa.string()), use_dictionary=False, column_encoding="DELTA_BYTE_ARRAY")
    assert len(read(path)[0]) == N
    monkeypatch.setattr(arrow_files, "_MOST_UNPACKED", 1_000)
    with pytest.raises(DataError, match=r"unpacks to 1,600 bytes"):
        read(path)


def test_values_that_are_told_by_those_before_them_are_read_few_at_once(tmp_path, monkeypatch):
    path = tmp_path / "a.parquet"
    values = [f"{'a' * 2_000}{n}" for n in range(N)]
    write(path, pa.array(values), use_dictionary=False, column_encoding="DELTA_BYTE_ARRAY")
    monkeypatch.setattr(arrow_files, "MOST_BYTES", 100_000)
    lines, found, n_chunks = read(path)
    assert (lines, found) == ([*range(1, N + 1)], values)
    assert n_chunks >= 15


@pytest.mark.parametrize("suffix", [".arrow", ".arrows"])
def test_a_batch_is_refused_for_what_its_head_says(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"a{suffix}"
    for values in (TEXT, TEXT.dictionary_encode(), pa.array([str(n) * 9 for n in range(N)])):
        write(path, values)
        assert len(read(path)[0]) == N
    monkeypatch.setattr(arrow_files, "_MOST_OF_BATCH", 5_000)
    with pytest.raises(DataError, match=r"unpacks to 1\d,\d{3} bytes, .* at most 5,000 and"):
        read(path)
    monkeypatch.undo()
    monkeypatch.setattr(arrow_files, "_MOST_UNPACKED", 2_000)
    with pytest.raises(DataError, match=r"bytes, 9,\d{3} of them in one part: .* or unpacked\."):
        read(path)
    pyarrow.feather.write_feather(pa.table({"a": TEXT}), path, compression="uncompressed")
    assert len(read(path)[0]) == N


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_a_row_that_no_memory_holds_is_refused(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"a{suffix}"
    write(path, pa.DictionaryArray.from_arrays(pa.array([0] * 10), ["a" * 2_000]))
    monkeypatch.setattr(plain_sizes, "MOST_BYTES", 100)
    assert len(read(path)[0]) == 10
    monkeypatch.setattr(arrow_files, "_MOST_UNPACKED", 2_000 - (suffix == ".arrow"))
    with pytest.raises(DataError, match=r"row 1 takes more than|unpacks to"):
        read(path)


def broken_text():
    """Return text that is not UTF-8, as nothing keeps it from being in a file."""
    values = pa.array([b"u", b"\xff\xfe", b"v"])
    return pa.StringArray.from_buffers(3, *values.buffers()[1:])


FAR = [2**62, -(2**62), 17]
ODD = {
    "dates": pa.array([2**31 - 1, -(2**31), 19_000], pa.date32()),
    "milliseconds of dates": pa.array([(2**61) // 86_400_000 * 86_400_000, 0, 0], pa.date64()),
    **{f"moments in {unit}": pa.array(FAR, pa.timestamp(unit)) for unit in ("s", "ms", "us", "ns")},
    **{
        f"moments of {zone!r}": pa.array(FAR, pa.timestamp("us", zone))
        for zone in ("Mars/Phobos", "+99:99", "\0", "Europe/Berlin")
    },
    "durations": pa.array(FAR, pa.duration("us")),
    "clock": pa.array([1, 2, 3], pa.time64("us")),
    "intervals": pa.array([(1, 2, 3), (0, 0, 0), None], pa.month_day_nano_interval()),
    "decimals": pa.array(["9" * 38, "-1", "1"]).cast(pa.decimal128(38, 0)),
    "floats": pa.array([float("nan"), float("inf"), -1e300]),
    "half floats": pa.array([65_504.0, 1.0, -1.0], pa.float16()),
    "unsigned": pa.array([2**64 - 1, 2**63, 0], pa.uint64()),
    "signed": pa.array([2**63 - 1, -(2**63), 0]),
    "truth": pa.array([True, False, None]),
    "nothing": pa.nulls(3),
    "bytes": pa.array([b"\xff", b"", b"a\0b"]),
    "three bytes": pa.array([b"\xff\xfe\xfd", b"abc", b"123"], pa.binary(3)),
    "broken text": broken_text(),
    "broken words": pa.DictionaryArray.from_arrays(pa.array([0, 1, 2]), broken_text()),
    "broken lists": pa.ListArray.from_arrays([0, 1, 2, 3], broken_text()),
    "lists of moments": pa.ListArray.from_arrays([0, 1, 2, 3], pa.array(FAR, pa.timestamp("us"))),
    "maps": pa.array([[("a", 1)], [], None], pa.map_(pa.string(), pa.int64())),
    "structs": pa.array([{"a": FAR[0]}, {"a": 1}, None], pa.struct({"a": pa.timestamp("us")})),
}
ITEMS = files.CatalogueFormat()
PARTS = ["user_id", "item_id", "interaction_type", "weight", "occurred_at", "event_id", "stars"]


def of_odd_values(path, values, part):
    columns = {"user_id": ["a", "b", "c"], "item_id": ["i", "j", "k"], part: values}
    if path.suffix == ".parquet":
        pq.write_table(pa.table(columns), path)
    else:
        pyarrow.feather.write_feather(pa.table(columns), path, compression="uncompressed")


def told_of(act, *arguments, **named):
    """Return what an act gives, or what it says is wrong."""
    try:
        return act(*arguments, **named)
    except DataError as exc:
        return exc.message


@pytest.mark.parametrize("kind", ODD)
def test_a_column_of_any_values_is_read_or_refused_with_a_word(tmp_path, database, settings, kind):
    rated = files.FileFormat(min_rating=4, rating_column="stars")
    for suffix, part in itertools.product((".arrow", ".parquet"), PARTS):
        path = tmp_path / f"{part}{suffix}"
        try:
            of_odd_values(path, ODD[kind], part)
        except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
            continue  # it cannot be written
        for format in (rated if part == "stars" else None, files.FileFormat(layout="wide")):
            told = told_of(preview, path, format, types={"click": 1.0})
            assert isinstance(told, str) or all(line.reason for line in told.refused)
        columns = Columns(time="occurred_at" if part == "occurred_at" else None)
        assert told_of(read_interactions, path, columns=columns)
    more = {"settings": settings, "actor": "test"}
    format = files.FileFormat(default_time="now")
    path = tmp_path / "occurred_at.arrow"
    told = told_of(files.import_file, database, path, format=format, **more)
    assert isinstance(told, str) or told.accepted + told.duplicates + told.refused == 3
    told = told_of(files.import_items, database, tmp_path / "stars.arrow", format=ITEMS, **more)
    assert isinstance(told, str) or told.items + told.refused == 3


def test_more_columns_than_a_table_has_are_refused_at_once(tmp_path):
    for name in ("a.parquet", "a.arrow"):
        path = Path(tmp_path / name)
        names = [*("user_id", "item_id"), *(f"c{n}" for n in range(30_000))]
        table = pa.table([pa.array(["x"])] * len(names), names=names)
        if path.suffix == ".parquet":
            pq.write_table(table, path, use_dictionary=False, write_statistics=False)
        else:
            pyarrow.feather.write_feather(table, path, compression="uncompressed")
        with pytest.raises(DataError, match="has 30,002 columns, and at most 30,000 can be read"):
            preview(path, types={"click": 1.0})
