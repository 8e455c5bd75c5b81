"""By what a row is known again: names of rows that are the same wherever they stand."""

import math
import mmap
import tempfile
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import pyarrow as pa

_RUN_ROWS = 500_000
_LEAST_BITS, _MOST_BITS = 20, 28
_BYTES_OF_ROW = 16
"""A row of a file is seldom shorter: so the number of rows is guessed."""

_ODD = np.array(
    [0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93,
     0x27D4EB2F165667C5], np.uint64,
)  # fmt: skip
_HEX = np.frombuffer(b"".join(b"%02x" % byte for byte in range(256)), np.uint16)
_FIRST_BYTES = np.array([256**n - 1 for n in range(9)], np.uint64)
_NO_TIME = -1
_NAME_CHARACTERS = 38


class RowKeys(NamedTuple):
    """What rows say, as numbers; two rows that differ have different ones but for a rare chance."""

    times: np.ndarray
    first: np.ndarray
    second: np.ndarray


def keys_of(
    users: pa.Array,
    items: pa.Array,
    kinds: pa.Array,
    weights: np.ndarray,
    times: np.ndarray,
    is_timeless: np.ndarray,
) -> RowKeys:
    """Return the keys of rows, by user, item, type, weight and time; `kinds` may be one for all."""
    times = np.where(is_timeless, _NO_TIME, times)
    lanes = [
        _mixed((weights + 0.0).view(np.uint64) * odd) + _mixed(times.view(np.uint64) ^ odd)
        for odd in _ODD[3:]
    ]
    encoded = kinds.dictionary_encode()
    hashes_of_kinds = _hashes(encoded.dictionary)
    rows_of_kinds = encoded.indices.to_numpy()
    for lane, odd, of_user, of_item, of_kind in zip(
        lanes, _ODD[:2], _hashes(users), _hashes(items), hashes_of_kinds, strict=True
    ):
        lane += _mixed(of_user ^ odd) + of_item + (of_kind * odd)[rows_of_kinds]
    return RowKeys(times, *(_mixed(lane) for lane in lanes))


def _hashes(texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Return two 64-bit numbers of each text. Who means to can find texts that share them."""
    texts = texts.cast(pa.string())
    _, ends, content = texts.buffers()
    bounds = np.frombuffer(ends, np.int32)[texts.offset : texts.offset + len(texts) + 1]
    lengths = np.diff(bounds)
    padded = bytes(content or b"") + bytes(8)
    # A word of eight characters begins at each place.
    words = np.ndarray(len(padded) - 7, "<u8", padded, strides=(1,))
    first, second = (lengths.astype(np.uint64) * odd for odd in _ODD[:2])
    for at in range(0, int(lengths.max(initial=0)), 8):
        left = np.clip(lengths - at, 0, 8)
        word = words[np.minimum(bounds[:-1] + at, len(words) - 1)] & _FIRST_BYTES[left]
        # Texts have the same numbers in any company: behind their ends nothing changes.
        is_in = left > 0
        first = np.where(is_in, _mixed(first ^ word), first)
        second = np.where(is_in, _mixed(second + word * _ODD[2]), second)
    return first, second


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """Return 64-bit numbers of which each bit depends on all (the finalizer of SplitMix64)."""
    mixed: np.ndarray = numbers ^ (numbers >> np.uint64(30))
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed


def names_of(keys: RowKeys, occurrences: np.ndarray) -> list[str]:
    """Return the event ids of rows: they begin with the time, so that an index grows at its end.

    Parameters
    ----------
    keys : RowKeys
    occurrences : array of int
        Of several rows that say the same, which it is, counted from 1.
    """
    texts = np.empty((len(keys.times), _NAME_CHARACTERS), np.uint8)
    texts[:, :3] = np.frombuffer(b"at-", np.uint8)
    texts[:, 3:17] = _digits(keys.times, 7)
    texts[:, 17] = ord("-")
    texts[:, 18:34] = _digits(keys.first, 8)
    texts[:, 34:] = _digits(keys.second, 2)
    ends = np.arange(len(texts) + 1, dtype=np.int32) * _NAME_CHARACTERS
    names: list[str] = pa.StringArray.from_buffers(
        len(texts), pa.py_buffer(ends), pa.py_buffer(texts)
    ).to_pylist()
    for row in np.flatnonzero(occurrences > 1).tolist():
        names[row] += f"-{occurrences[row]}"
    return names


def _digits(numbers: np.ndarray, n_bytes: int) -> np.ndarray:
    """Return the last bytes of 64-bit numbers in hexadecimal, a character in each column."""
    low = numbers.astype(numbers.dtype.newbyteorder(">")).view(np.uint8)
    pairs = _HEX[low.reshape(-1, 8)[:, 8 - n_bytes :]]
    return pairs.view(np.uint8)


class _Span(NamedTuple):
    """The first and the last of some times."""

    first: int
    last: int

    def meets(self, other: "_Span") -> bool:
        """Say whether a time may lie in both."""
        return self.first <= other.last and other.first <= self.last

    def joined(self, other: "_Span") -> "_Span":
        """Return what holds both."""
        return _Span(min(self.first, other.first), max(self.last, other.last))


class _Run(NamedTuple):
    """Keys, ascending, of rows whose times lie in a span."""

    keys: np.ndarray
    span: _Span


class _RunOnDisk(NamedTuple):
    """As `_Run`, in a file."""

    offset: int
    n_rows: int
    span: _Span


class Occurrences:
    """Which of several equal rows of a file each is, in bounded memory whatever its size.

    The keys of all rows lie in sorted runs, large ones on disk. Most rows are new, and for them
    a bit says so: no other key has set it. In a file in the order of its times hardly any run
    has the times of a chunk, and none of the others is looked into.

    Parameters
    ----------
    n_bytes : int
        Size of the file, about.
    folder : Path
        Where runs may lie.
    """

    def __init__(self, n_bytes: int, *, folder: Path) -> None:
        n_bits = math.ceil(math.log2(max(1, 8 * n_bytes // _BYTES_OF_ROW)))
        n_bits = min(max(n_bits, _LEAST_BITS), _MOST_BITS)
        self._bits = np.zeros(2**n_bits // 8, np.uint8)
        self._shift = np.uint64(64 - n_bits)
        self._folder = folder
        self._runs: list[_Run] = []
        self._file: IO[bytes] | None = None
        self._on_disk: list[_RunOnDisk] = []

    def close(self) -> None:
        """Take what lies on disk away."""
        if self._file is not None:
            self._file.close()

    def count(self, rows: RowKeys) -> np.ndarray:
        """Return of each row of a chunk how often its key has come by then, this time too."""
        keys = rows.first
        if not len(keys):
            return np.zeros(0, np.int64)
        span = _Span(int(rows.times.min()), int(rows.times.max()))
        ordered = np.sort(keys)
        starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
        before = self._before(ordered[starts], span)
        self._add(_Run(ordered, span))
        if len(starts) == len(keys) and not before.any():
            return np.ones(len(keys), np.int64)  # as most chunks are
        lengths = np.diff(np.append(starts, len(ordered)))
        counts = np.empty(len(keys), np.int64)
        of_ordered = np.arange(len(ordered)) - np.repeat(starts - before, lengths) + 1
        counts[np.argsort(keys, kind="stable")] = of_ordered
        return counts

    def _before(self, keys: np.ndarray, span: _Span) -> np.ndarray:
        """Return how often each of some keys, which ascend, came in the chunks before."""
        slots = keys >> self._shift
        bytes_, bits = (
            (slots >> np.uint64(3)).astype(np.int64),
            np.left_shift(1, (slots & np.uint64(7)).astype(np.uint8), dtype=np.uint8),
        )
        may_be = np.flatnonzero(self._bits[bytes_] & bits)
        starts = np.flatnonzero(np.concatenate([[True], bytes_[1:] != bytes_[:-1]]))
        self._bits[bytes_[starts]] |= np.bitwise_or.reduceat(bits, starts)
        before = np.zeros(len(keys), np.int64)
        if len(may_be):
            asked = keys[may_be]
            for run in self._runs:
                if run.span.meets(span):
                    before[may_be] += _times_in(asked, run.keys)
            if self._file is not None:
                before[may_be] += self._times_on_disk(asked, span, self._file)
        return before

    def _add(self, run: _Run) -> None:
        while self._runs and len(self._runs[-1].keys) <= 2 * len(run.keys):
            last = self._runs.pop()
            keys = np.concatenate([last.keys, run.keys])
            keys.sort(kind="stable")  # which merges two sorted runs
            run = _Run(keys, run.span.joined(last.span))
        if len(run.keys) < _RUN_ROWS:
            self._runs.append(run)
            return
        if self._file is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115
        offset = 0
        if self._on_disk:
            offset = self._on_disk[-1].offset + _on_pages(8 * self._on_disk[-1].n_rows)
        self._file.seek(offset)
        self._file.write(run.keys.data)
        self._file.flush()
        self._on_disk.append(_RunOnDisk(offset, len(run.keys), run.span))

    def _times_on_disk(self, keys: np.ndarray, span: _Span, file: IO[bytes]) -> np.ndarray:
        found = np.zeros(len(keys), np.int64)
        for run in self._on_disk:
            if not run.span.meets(span):
                continue
            # Only the pages that are looked at are read, and none stays in this process's memory.
            with mmap.mmap(
                file.fileno(), 8 * run.n_rows, access=mmap.ACCESS_READ, offset=run.offset
            ) as content:
                found += _times_in(keys, np.frombuffer(content, np.uint64))
        return found


def _on_pages(n_bytes: int) -> int:
    """Return what so many bytes take where each run begins on a page of its own."""
    return -(-n_bytes // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY


def _times_in(keys: np.ndarray, run: np.ndarray) -> np.ndarray:
    first = np.searchsorted(run, keys)
    found = np.zeros(len(keys), np.int64)
    is_in = run[np.minimum(first, len(run) - 1)] == keys
    found[is_in] = np.searchsorted(run, keys[is_in], side="right") - first[is_in]
    return found
