"""Imports of files that nobody would write, in a process whose memory is watched.

``python -m tests.fuzzed_imports FOLDER FIRST N BYTES BOMBS``, with an installation in the
environment: imports N files that were sound before they were changed, from seed FIRST on, and
those of the BOMBS with so many BYTES in them; prints how much memory the process had at most.
"""

import bz2
import contextlib
import gzip
import io
import lzma
import random
import subprocess
import sys
import zipfile
from pathlib import Path

import openpyxl
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq

from reckeeper import storage, tabular
from reckeeper.config import Settings
from reckeeper.errors import ReckeeperError
from reckeeper.events import files, previews
from reckeeper.tabular import Layout
from reckeeper.telemetry import peak_memory_bytes

MOST_BYTES = 600_000_000
BLOCK = 4 * 1024 * 1024

TEXT = "user_id,item_id,note\n" + "".join(f'u{n},i{n},"a ""b""\nc"\n' for n in range(40))
LINES = "".join(f'{{"user_id": {n}, "item_id": ["a", {{"b": [{n}]}}]}}\n' for n in range(40))
TABLE = pa.table(
    {"user_id": [f"u{n}" for n in range(40)], "item_id": [[n, n + 1] for n in range(40)]}
)


def zstd(content: bytes) -> bytes:
    return pa.compress(content, "zstd", asbytes=True)


def zipped(content: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.csv", content)
    return out.getvalue()


def written(write, *arguments, **how) -> bytes:
    out = io.BytesIO()
    write(*arguments, out, **how)
    return out.getvalue()


def workbook() -> bytes:
    book = openpyxl.Workbook()
    for row in (["user_id", "item_id"], *([f"u{n}", n] for n in range(40))):
        book.active.append(row)
    return written(book.save)


def sound_files() -> list[bytes]:
    text = TEXT.encode()
    return [
        *(
            text,
            TEXT.encode("utf-16"),
            LINES.encode(),
            b"[%s]" % LINES.replace("}\n{", "},{").encode(),
        ),
        *(pack(text) for pack in (gzip.compress, bz2.compress, lzma.compress, zstd, zipped)),
        *(written(pq.write_table, TABLE, compression=how) for how in ("none", "snappy", "zstd")),
        *(
            written(pyarrow.feather.write_feather, TABLE, compression=how)
            for how in ("uncompressed", "lz4", "zstd")
        ),
        workbook(),
    ]


def changed(content: bytes, chance: random.Random) -> bytes:
    """Return content with some bytes other than they were, taken out, or there twice."""
    found = bytearray(content)
    for _ in range(chance.choice([1, 1, 2, 5, 30])):
        at, length = chance.randrange(len(found) + 1), chance.choice([1, 1, 4, 8, 100])
        match chance.randrange(4):
            case 0:
                found[at : at + length] = chance.randbytes(length)
            case 1:
                found[at : at + length] = chance.choice([b"\xff", b"\x7f", b"\0"]) * length
            case 2:
                del found[at : at + length]
            case _:
                found[at:at] = found[at : at + length]
        found = found or bytearray(b"x")
    return bytes(found)


BOMBS = {
    "NULs": (b"", b"\0"),
    "a value": (b"user_id,item_id\nu,", b"a"),
    "a value in marks": (b'user_id,item_id\nu,"', b"a\n"),
    "marks": (b"user_id,item_id\nu,i\n", b'"'),
    "delimiters": (b"user_id,item_id\nu,i\n", b","),
    "empty lines": (b"user_id,item_id\nu,i\n", b"\n"),
    "names": (b"user_id", b",item_id"),
    "white space": (b"user_id item_id\nu i\n", b" "),
    "UTF-16": ("\ufeffuser_id,item_id\nu,".encode("utf-16-le"), b"a\0"),
    "backslashes": (b'user_id,item_id\n"\\"u",i\n', b"\\"),
    "brackets": (b"", b"["),
    "objects": (b"", b'{"a":'),
    "a text in JSON": (b'[{"user_id": "', b"a"),
    "a list in JSON": (b'[{"user_id": 1, "item_id": [1', b",1"),
    "a line of JSON": (b'{"user_id": 1}\n{"user_id": "', b"a"),
    "JSON with nothing": (b'[{"user_id": 1, "item_id": 1}', b" "),
}
"""What a file begins with, and what follows over and over."""

PACKERS = {
    "gzip": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstd,
    "zip": None,
    "xlsx": None,
}


def write_bomb(path: Path, name: str, packer: str, n_bytes: int) -> None:
    begin, part = BOMBS[name]
    part *= BLOCK // len(part)
    n_parts = n_bytes // len(part)
    pack = PACKERS[packer]
    if pack is not None:
        packed = pack(part)
        with path.open("wb") as file:
            file.write(pack(begin) if begin else b"")
            file.writelines(packed for _ in range(n_parts))
        return
    member = "a.csv"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        if packer == "xlsx":
            member = "xl/worksheets/sheet1.xml"
            with zipfile.ZipFile(io.BytesIO(workbook())) as book:
                for info in book.infolist():
                    if info.filename != member:
                        archive.writestr(info, book.read(info))
                begin = book.read(member).partition(b"</sheetData>")[0]
        with archive.open(member, "w", force_zip64=True) as file:
            file.write(begin)
            for _ in range(n_parts):
                file.write(part)


def write_columns(path: Path, n_bytes: int) -> None:
    """Write Parquet in which one value stands so often that it has so many bytes."""
    value = pa.DictionaryArray.from_arrays(pa.array([0] * 100, pa.int8()), ["a" * 10_000])
    schema = pa.schema({"user_id": value.type, "item_id": value.type})
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        column = pa.concat_arrays([value] * (n_bytes // 2_000_000))
        writer.write_table(pa.table([column, column], schema=schema))


def _of(kind: str, value: pa.Array) -> pa.Array:
    n = 30 if kind in ("dictionary", "runs", "views") else 1
    match kind:
        case "dictionary":
            return pa.DictionaryArray.from_arrays(pa.array([0] * n, pa.int8()), value)
        case "runs":
            return pa.RunEndEncodedArray.from_arrays(pa.array([n], pa.int32()), value)
        case "views":
            return pa.concat_arrays([value.cast(pa.string_view())] * n)
        case _:
            return value


def write_arrow_bomb(path: str, name: str, n_bytes: str) -> None:
    """Write a file whose one value is packed to little; or is there many times, and stored once."""
    form, kind = name.split(" ", 1)
    is_once = kind in ("page", "dictionary page")
    value = pa.array(["a" * (int(n_bytes) if is_once else 23_000_000)])
    values = _of(kind, value)
    if kind == "delta":
        start = "a" * 8_000_000
        values = pa.array([f"{start}{n}" for n in range(100)])
    table = pa.table({"user_id": values, "item_id": pa.array(["i"] * len(values))})
    if form == "Parquet":
        delta = {"user_id": "DELTA_BYTE_ARRAY", "item_id": "PLAIN"} if kind == "delta" else None
        is_dictionary = kind.startswith("dictionary")
        how = {"use_dictionary": is_dictionary, "column_encoding": delta}
        pq.write_table(table, path, compression="zstd", **how)
    else:
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        with pa.ipc.new_file(path, table.schema, options=options) as writer:
            writer.write_table(table)


def take(database: storage.Database, settings: Settings, path: Path, layout: Layout) -> None:
    with contextlib.suppress(ReckeeperError):
        previews.preview(path, types={"click": 1.0})
    with contextlib.suppress(ReckeeperError):
        format = files.FileFormat(layout=layout)
        files.import_file(database, path, format=format, settings=settings, actor="fuzz")
    with contextlib.suppress(ReckeeperError):
        tabular.fingerprint(path)


def main(folder: str, first: str, n: str, n_bytes: str, *bombs: str) -> None:
    settings = Settings.from_env()
    path = Path(folder) / "file"
    sound = sound_files()
    with contextlib.closing(storage.open_database(settings)) as database:

        def see(what: object, layout: Layout = Layout.ROWS) -> None:
            take(database, settings, path, layout)
            assert peak_memory_bytes() < MOST_BYTES, f"{what}: {peak_memory_bytes():,} bytes"

        for seed in range(int(first), int(first) + int(n)):
            chance = random.Random(seed)
            path.write_bytes(changed(chance.choice(sound), chance))
            see(seed, chance.choice([Layout.ROWS, Layout.ROWS, Layout.WIDE, Layout.LISTS]))
        for bomb in bombs:
            name, _, packer = bomb.partition("/")
            if name.startswith(("Parquet", "Arrow")):
                code = "import sys; from tests import fuzzed_imports as it; it.write_arrow_bomb"
                command = [sys.executable, "-c", f"{code}(*sys.argv[1:])", path, name, n_bytes]
                subprocess.run(command, check=True)  # the memory of this process is watched
            elif name == "columns":
                write_columns(path, int(n_bytes))
            else:
                write_bomb(path, name, packer, int(n_bytes))
            see(bomb)
    sys.stdout.write(f"{peak_memory_bytes()}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
