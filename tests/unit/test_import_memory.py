"""Files of any bytes are imported or refused in bounded memory, and soon enough."""

import shutil

import pytest
from tests import fuzzed_imports

SECONDS = 280
ARROW = ["Parquet page", "Parquet dictionary", "Arrow page", "Arrow dictionary"]
MORE_ARROW = ["Parquet dictionary page", "Parquet delta", "Arrow runs", "Arrow views"]
PACKED = ["gzip", "bz2", "xz", "zstd", "zip"]
SMALLER = {"empty lines": 20_000_000, "white space": 200_000_000}
"""Bytes of which each takes longer; JSON's do as well."""


@pytest.fixture
def imports_within(settings, migrated, tmp_path, start_python):
    """Return a function that imports in a process of its own, whose memory is watched."""
    shutil.copytree(migrated, settings.data_dir)

    def run(*, first=0, n=0, n_bytes=700_000_000, bombs=()):
        code = "import sys; from tests import fuzzed_imports; fuzzed_imports.main(*sys.argv[1:])"
        process = start_python(code, tmp_path, first, n, n_bytes, *bombs)
        output, errors = process.communicate(timeout=SECONDS)
        assert process.returncode == 0, errors[-2000:]
        assert int(output.split()[-1]) < fuzzed_imports.MOST_BYTES

    return run


def test_changed_files_and_bombs_need_bounded_memory(imports_within):
    bombs = ["a value/zstd", "columns", "Parquet dictionary", "Arrow page"]
    imports_within(n=20, n_bytes=300_000_000, bombs=bombs)


@pytest.mark.long
@pytest.mark.parametrize("first", range(0, 4000, 250))
def test_thousands_of_changed_files_need_bounded_memory(imports_within, first):
    imports_within(first=first, n=250)


@pytest.mark.long
@pytest.mark.parametrize("packer", PACKED)
@pytest.mark.parametrize("name", fuzzed_imports.BOMBS)
def test_every_bomb_needs_bounded_memory(imports_within, name, packer):
    is_json = fuzzed_imports.BOMBS[name][0][:1] in (b"", b"[", b"{") and name != "NULs"
    n_bytes = SMALLER.get(name, 100_000_000 if is_json else 700_000_000)
    imports_within(n_bytes=n_bytes, bombs=[f"{name}/{packer}"])


@pytest.mark.long
@pytest.mark.parametrize(
    "bomb",
    ["columns", "NULs/xlsx", "a value/xlsx", "marks/xlsx", *ARROW, *MORE_ARROW],
)
def test_every_bomb_of_no_text_needs_bounded_memory(imports_within, bomb):
    imports_within(bombs=[bomb])
