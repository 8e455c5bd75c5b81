"""The interactions of the last training on disk, by user: mapped, and shared by all processes.

A cache and never the truth: one that is missing, damaged, of another
installation or of another generation of the table is as good as none, and
whoever wants a history asks the database. Each training writes it whole.

The file has, beside the ids of users and items, 21 bytes an interaction: its
item, its type, its weight and its time.
"""

import bisect
import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from reckeeper import arrays, durable
from reckeeper.errors import DataError
from reckeeper.matrix import InteractionLog
from reckeeper.telemetry import get_logger

FILE = "interactions.snapshot"
"""Its name in the folder of the model files."""

_FORMAT = "reckeeper-snapshot-1"
_MOST_TYPES = 256

_SIGNPOSTS = 4096
"""Ids at most, of all in their order, that are held beside the map to look others up by."""

_MANY = 0.01
"""From this share of all ids on it is quicker to go through all than to look for each."""

_log = get_logger(__name__)


@dataclass(frozen=True)
class Origin:
    """What a snapshot was made of.

    Attributes
    ----------
    installation_id : str
    generation : int
        That of the table.
    watermark : int
        Number of the last interaction in it.
    made_at : int
        Microseconds since 1970-01-01 UTC: what happened to users since, such as a merge, is not
        in it.
    """

    installation_id: str
    generation: int
    watermark: int
    made_at: int


class Recorder:
    """Keeps of interactions that pass by what a log does not: their types and own weights.

    Parameters
    ----------
    batches : iterable of pyarrow.RecordBatch
        As of `matrix.read_log`, with times.
    """

    def __init__(self, batches: Iterable[pa.RecordBatch]) -> None:
        self._batches = batches
        self._type_codes: dict[str, int] = {}
        self._types: list[np.ndarray] = []
        self._weights: list[np.ndarray] = []

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        for batch in self._batches:
            types = batch.column("interaction_type").dictionary_encode()
            codes = [
                self._type_codes.setdefault(name, len(self._type_codes))
                for name in types.dictionary.to_pylist()
            ]
            code_of = np.array(codes, dtype=np.int64).astype(np.uint8)
            self._types.append(code_of[types.indices.to_numpy()])
            self._weights.append(np.array(batch.column("weight")))  # a view would keep the batch
            yield batch

    def write(self, folder: Path, log: InteractionLog, origin: Origin) -> bool:
        """Write what went by as the snapshot of a folder, and let go of it.

        Parameters
        ----------
        folder : Path
        log : InteractionLog
            What was read of the same batches.
        origin : Origin

        Returns
        -------
        bool
            Whether it was written: a table with more than 256 types of interactions has none.

        Raises
        ------
        OSError
            It could not be written; what was there stays.
        """
        types = list(self._type_codes)
        if len(types) > _MOST_TYPES or log.occurred_at is None:
            return False
        order = log.by_user()
        ends = np.cumsum(np.bincount(log.user_index, minlength=len(log.users)))
        content = {
            "bounds": np.concatenate([[0], ends]).astype(np.int64),
            "item": log.item_index[order],
            "type": _joined(self._types)[order],
            "weight": _joined(self._weights)[order],
            "time": log.occurred_at[order],
        }
        for name, ids in (("users", log.users.ids), ("items", log.items.ids), ("types", types)):
            content[f"{name}.bytes"], content[f"{name}.bounds"] = arrays.pack_ids(ids)
        header = {"format": _FORMAT} | {name: str(value) for name, value in vars(origin).items()}
        durable.make_folder(folder)
        with durable.replaced_file(folder / FILE, is_alone=True) as temporary:
            arrays.write(temporary, content, header=header)
        return True


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    whole = np.concatenate(parts)
    parts.clear()
    return whole


@dataclass(frozen=True)
class Rows:
    """Interactions of a user, in the order of the table.

    Attributes
    ----------
    item_index : ndarray of int32, shape (n,)
        Places in `Snapshot.items`.
    type_index : ndarray of uint8, shape (n,)
        Places in `Snapshot.types`.
    weight : ndarray of float64, shape (n,)
        The interactions' own.
    occurred_at : ndarray of int64, shape (n,)
        Microseconds UTC.
    """

    item_index: np.ndarray
    type_index: np.ndarray
    weight: np.ndarray
    occurred_at: np.ndarray

    def __len__(self) -> int:
        return len(self.item_index)


class Snapshot:
    """A snapshot that is mapped.

    Attributes
    ----------
    origin : Origin
    users, items : Ids
    types : tuple of str
    """

    def __init__(self, origin: Origin, content: Mapping[str, np.ndarray]) -> None:
        self.origin = origin
        self.users, self.items = Ids.of(content, "users"), Ids.of(content, "items")
        self.types = tuple(Ids.of(content, "types"))
        bounds = content["bounds"]
        _check_bounds(bounds)
        self._bounds = bounds.data
        self._columns = tuple(content[name] for name in ("item", "type", "weight", "time"))
        n = self._bounds[-1]
        if len(self._bounds) != len(self.users) + 1 or {len(c) for c in self._columns} != {n}:
            raise DataError("its parts do not belong together")
        items, types, *_ = self._columns
        least, most = items.min(initial=0), items.max(initial=-1)
        if least < 0 or most >= len(self.items) or types.max(initial=0) >= max(1, len(self.types)):
            raise DataError("it has items or types that it does not name")

    def of_user(self, user_id: str) -> Rows:
        """Return the interactions of a user; none of somebody whom it does not know."""
        place = self.users.find(user_id)
        rows = slice(0) if place is None else slice(self._bounds[place], self._bounds[place + 1])
        return Rows(*(column[rows] for column in self._columns))

    def of_users(self, user_ids: Sequence[str]) -> tuple[Rows, np.ndarray]:
        """Return the interactions of users, one after the other, and where each one's begin.

        Returns
        -------
        Rows
        ndarray of int64, shape (n_users + 1,)
        """
        places = [self.users.find(user_id) for user_id in user_ids]
        known = np.array([-1 if place is None else place for place in places], dtype=np.int64)
        begins = np.asarray(self._bounds)  # of those who are not there, any will do
        lengths = np.where(known < 0, 0, begins[known + 1] - begins[known])
        bounds = np.concatenate([[0], np.cumsum(lengths)])
        rows = np.arange(bounds[-1]) + np.repeat(begins[known] - bounds[:-1], lengths)
        return Rows(*(column[rows] for column in self._columns)), bounds


class Ids(Sequence[str]):
    """Ids in ascending order that stay where they are mapped."""

    def __init__(self, content: np.ndarray, bounds: np.ndarray) -> None:
        _check_bounds(bounds)
        self._content, self._bounds = content.data, bounds.data
        if self._bounds[-1] != len(content):
            raise DataError("its ids are not laid out as such")
        self._step = 1 + len(self) // _SIGNPOSTS
        self._signposts = [self._bytes_at(place) for place in range(0, len(self), self._step)]

    @classmethod
    def of(cls, content: Mapping[str, np.ndarray], name: str) -> Self:
        """Return those of a file by their name in it."""
        return cls(content[f"{name}.bytes"], content[f"{name}.bounds"])

    def __len__(self) -> int:
        return len(self._bounds) - 1

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        return self._bytes_at(place).decode()

    def to_arrow(self) -> pa.LargeStringArray:
        """Return them as an array that shares their bytes."""
        buffers = [None, pa.py_buffer(self._bounds), pa.py_buffer(self._content)]
        return pa.Array.from_buffers(pa.large_string(), len(self), buffers)

    def find(self, external_id: str) -> int | None:
        """Return the place of an id, or None; O(log n)."""
        wanted = external_id.encode()
        passed = bisect.bisect_right(self._signposts, wanted)
        low = max(0, passed - 1) * self._step
        high = min(passed * self._step, len(self))
        while low < high:
            middle = (low + high) // 2
            found = self._bytes_at(middle)
            if found == wanted:
                return middle
            if found < wanted:
                low = middle + 1
            else:
                high = middle
        return None

    def _bytes_at(self, place: int) -> bytes:
        return self._content[self._bounds[place] : self._bounds[place + 1]].tobytes()

    def find_each(self, external_ids: Sequence[str]) -> np.ndarray:
        """Return what `find` gives for each id, -1 for None: int64, shape (n,)."""
        if len(external_ids) < _MANY * len(self):
            found = map(self.find, external_ids)
            return np.array([-1 if each is None else each for each in found], dtype=np.int64)
        wanted = pa.array(external_ids, pa.large_string())
        places = pc.fill_null(pc.index_in(wanted, value_set=self.to_arrow()), -1)
        return np.asarray(places.to_numpy().astype(np.int64))


def _check_bounds(bounds: np.ndarray) -> None:
    """Refuse what cuts nothing into parts: bounds are whole, begin at 0 and never go back."""
    is_array = bounds.dtype == np.int64 and bounds.ndim == 1 and len(bounds)
    if not is_array or bounds[0] != 0 or (bounds[1:] < bounds[:-1]).any():
        raise DataError("its bounds are none")


def opened(folder: Path, *, installation_id: str) -> Snapshot | None:
    """Map the snapshot of a folder; None where there is no sound one of the installation."""
    try:
        header, content = arrays.read(folder / FILE, is_mapped=True)
        if (header.get("format"), header.get("installation_id")) != (_FORMAT, installation_id):
            return None
        numbers = (int(header[name]) for name in ("generation", "watermark", "made_at"))
        return Snapshot(Origin(installation_id, *numbers), content)
    except FileNotFoundError:
        return None
    except (DataError, KeyError, ValueError, OSError) as exc:
        _log.warning("snapshot_not_sound", error=str(exc))
        return None


def discard(folder: Path) -> None:
    """Delete the snapshot of a folder, if there is one: it has what was taken away."""
    with contextlib.suppress(OSError):
        (folder / FILE).unlink()


def discard_older(folder: Path, *, installation_id: str, generation: int) -> None:
    """Delete the snapshot of a folder where it is of an earlier generation of the table."""
    found = opened(folder, installation_id=installation_id)
    if found is not None and found.origin.generation < generation:
        discard(folder)


def state(folder: Path) -> tuple[int, int] | None:
    """Return what changes with the snapshot of a folder; None while there is none."""
    try:
        status = (folder / FILE).stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns
