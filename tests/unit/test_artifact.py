"""The two files of a version: sound when written, refused when they are not."""

import concurrent.futures
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import pickle
import resource
import signal
import struct
import subprocess
import sys
import tracemalloc
import venv
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from scipy import sparse

from reckeeper import arrays, artifact
from reckeeper.artifact import Artifact, Metadata, ModelStore
from reckeeper.errors import ArtifactError, DataError, StorageError
from reckeeper.matrix import IdIndex, InteractionMatrix
from reckeeper.recipes import RECIPES, recipe_named
from reckeeper.recipes.checks import checked_csr

N_USERS, N_ITEMS = 30, 20


def training():
    """Return what the models here are fitted to."""
    random = np.random.default_rng(7)
    dense = np.where(random.random((N_USERS, N_ITEMS)) < 0.4, random.integers(0, 5, 1), 0.0)
    dense += np.where(random.random((N_USERS, N_ITEMS)) < 0.3, 1.5, 0.0)
    weights = sparse.csr_array(dense)
    users = IdIndex(sorted(f"ü/{number} 🎬" for number in range(N_USERS)))
    items = IdIndex(sorted(["", *(f"item {number}" for number in range(N_ITEMS - 1))]))
    latest_at = 1_700_000_000_000_000 + np.arange(weights.nnz, dtype=np.int64) * 86_400_000_000
    return InteractionMatrix(users, items, weights, 321, latest_at)


TRAINED = training()


def make(version=1, *, recipe="svd", settings=None):
    model = recipe_named(recipe).fit(TRAINED, settings=settings or {})
    metadata = Metadata(
        version=version,
        recipe=recipe,
        settings=model.settings,
        n_users=N_USERS,
        n_items=N_ITEMS,
        training_samples=321,
        explained_variance=model.explained_variance,
        watermark=99,
        trained_at=1_764_891_735_123_456,
        seconds=2.3,
        trigger="schedule",
    )
    return Artifact.of(metadata, TRAINED, model)


@pytest.fixture(scope="module")
def made():
    return make()


@pytest.fixture
def written(made, tmp_path):
    native, _ = ModelStore(tmp_path).write(made, TRAINED, cell_limit=10**6)
    return tmp_path / native.name


@pytest.fixture(scope="module")
def item_weights(tmp_path_factory):
    """Return arrays and header of a model that has a sparse matrix."""
    folder = tmp_path_factory.mktemp("spectral")
    native, _ = ModelStore(folder).write(make(recipe="spectral"), TRAINED, cell_limit=0)
    with safe_open(folder / native.name, framework="np") as stream:
        header = dict(stream.metadata())
    return load_file(folder / native.name), header


# The native file


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_native_file_gives_identical_numbers(recipe, tmp_path):
    made = make(recipe=recipe)
    native, _ = ModelStore(tmp_path).write(made, TRAINED, cell_limit=10**6)
    again = artifact.read(tmp_path / native.name)
    assert again.metadata == made.metadata
    assert again.items.ids == made.items.ids
    np.testing.assert_array_equal(again.popularity, TRAINED.popularity)
    found = again.predicted_ratings(TRAINED)
    assert found.equals(made.predicted_ratings(TRAINED))
    assert set(found.dtypes) == {np.dtype(np.float64)}
    assert again.model.explained_variance == made.metadata.explained_variance
    assert again.model.settings == made.model.settings


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_file_that_is_mapped_gives_identical_numbers_and_outlives_its_name(recipe, tmp_path):
    made = make(recipe=recipe)
    store = ModelStore(tmp_path, maps_files=True)
    store.write(made, TRAINED, cell_limit=0)
    again = store.read(1)
    store.delete(1)
    found = again.predicted_ratings(TRAINED)
    assert found.equals(made.predicted_ratings(TRAINED))
    assert not again.popularity.flags.writeable


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_type_is_svd_or_the_recipes_name(recipe):
    expected = "SVD" if recipe_named(recipe).decomposes else recipe
    assert make(recipe=recipe).metadata.type == expected
    assert make(recipe="popularity").metadata.type == "popularity"


def test_both_files_are_described(made, tmp_path):
    files = ModelStore(tmp_path / "new" / "folder").write(made, TRAINED, cell_limit=10**6)
    names = ["model-000001.safetensors", "model-000001.pkl"]
    assert [file.name for file in files] == names
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == sorted(names)
    for file in files:
        content = (tmp_path / "new" / "folder" / file.name).read_bytes()
        assert file.n_bytes == len(content)
        assert file.sha256 == hashlib.sha256(content).hexdigest()
        assert file.sha256 not in repr(file)
    assert ModelStore(tmp_path / "new" / "folder").describe(1) == files


def test_files_can_be_read_by_others(written):
    assert written.stat().st_mode & 0o777 == 0o600
    assert written.with_suffix(".pkl").stat().st_mode & 0o777 == 0o600


def test_what_was_registered_is_what_is_read(made, written):
    native, _ = ModelStore(written.parent).describe(1)
    artifact.read(written, n_bytes=native.n_bytes, sha256=native.sha256)
    with pytest.raises(ArtifactError, match=rf"has {native.n_bytes} bytes and not the 17 that"):
        artifact.read(written, n_bytes=17)
    with pytest.raises(ArtifactError, match="its content changed"):
        artifact.read(written, sha256="0" * 64)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.999])
@pytest.mark.parametrize("bit", [0, 7])
def test_a_file_whose_bit_flipped_is_refused(written, share, bit):
    native, _ = ModelStore(written.parent).describe(1)
    content = bytearray(written.read_bytes())
    content[int(len(content) * share)] ^= 1 << bit
    written.write_bytes(content)
    with pytest.raises(ArtifactError, match="its content changed"):
        artifact.read(written, n_bytes=native.n_bytes, sha256=native.sha256)


def test_what_is_read_is_not_copied(tmp_path):
    n_items = 2_000
    half = sparse.csr_array(sparse.random(n_items, n_items, 0.25, format="csr", dtype=np.float32))
    path = tmp_path / artifact.native_name(1)
    arrays.write(path, _of_one_matrix(half), header={})
    tracemalloc.start()
    try:
        _, found = arrays.read(path)
        matrix = checked_csr(found, "w", dtype=np.float32, shape=half.shape)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (matrix != half).nnz == 0
    assert most < 0.1 * path.stat().st_size  # the file itself is not counted here


def _of_one_matrix(matrix):
    return {
        "w.data": matrix.data,
        "w.indices": matrix.indices.astype(np.int32),
        "w.indptr": matrix.indptr.astype(np.int64),
    }


@pytest.mark.parametrize("is_mapped", [False, True])
def test_arrays_that_lie_anywhere_are_read(tmp_path, is_mapped):
    path = tmp_path / "odd.safetensors"
    numbers = np.array([[1.5, -2.0]])
    header = {
        "odd": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
        "numbers": {"dtype": "F64", "shape": [1, 2], "data_offsets": [1, 17]},
        "none": {"dtype": "I32", "shape": [0, 3], "data_offsets": [17, 17]},
    }
    told = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(told)) + told + b"\7" + numbers.tobytes())
    with arrays.Hashing() as hashing:
        _, found = arrays.read(path, is_mapped=is_mapped, hashing=hashing)
        assert hashing.hexdigest() == hashlib.sha256(path.read_bytes()).hexdigest()
    assert found["odd"].tolist() == [7]
    assert found["numbers"].tolist() == numbers.tolist()
    assert found["numbers"].flags.aligned
    assert found["none"].shape == (0, 3)


def test_what_is_no_file_is_not_read(tmp_path):
    path = tmp_path / artifact.native_name(1)
    os.mkfifo(path)  # nobody will ever write to it
    with pytest.raises(ArtifactError, match=r"model-000001.safetensors is not a file"):
        artifact.read(path)


@pytest.mark.parametrize("declared", [10 * 10**9, 2**62, 80])
def test_a_file_that_declares_more_than_it_has_is_refused(tmp_path, declared):
    told = {"dtype": "F64", "shape": [declared // 8], "data_offsets": [0, declared]}
    header = json.dumps({"weights.data": told}).encode()
    path = tmp_path / artifact.native_name(1)
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(64))
    with pytest.raises(ArtifactError, match="is not a sound model file"):
        artifact.read(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ArtifactError, match=r"model-000003.safetensors is missing from "):
        artifact.read(tmp_path / artifact.native_name(3))


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.999])
def test_a_truncated_file_is_refused(written, share):
    content = written.read_bytes()
    written.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ArtifactError, match="is not a sound model file"):
        artifact.read(written)


@pytest.mark.parametrize(
    "content",
    [
        b"garbage" * 1000,
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 2**40) + b"{" * 1000,
        struct.pack("<Q", 2) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        pickle.dumps({"rating_matrix": [1, 2, 3]}),
        bytes(10_000),
    ],
    ids=["garbage", "huge header", "large header", "empty", "list", "pickle", "zeros"],
)
def test_what_is_no_model_file_is_refused(tmp_path, content):
    path = tmp_path / artifact.native_name(1)
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="is not a sound model file"):
        artifact.read(path)


def test_nothing_in_a_file_can_run(tmp_path):
    class Harm:
        def __reduce__(self):
            return (Path(tmp_path / "harm").write_text, ("done",))

    path = tmp_path / artifact.native_name(1)
    path.write_bytes(pickle.dumps(Harm()))
    with pytest.raises(ArtifactError):
        artifact.read(path)
    assert not (tmp_path / "harm").exists()


def drop(name):
    return lambda arrays, header: arrays.pop(name)


def change(name, function):
    def edit(arrays, header):
        arrays[name] = np.ascontiguousarray(function(arrays[name].copy()))

    return edit


def set_to(index, value):
    def function(array):
        array[index] = value
        return array

    return function


def cut(*last):
    """Return what puts these in place of the last of an array; None keeps the one at its place."""

    def function(array):
        for index, value in enumerate(last, start=len(array) - len(last)):
            array[index] = array[index] if value is None else value
        return array

    return function


def without_entries(*last):
    def edit(arrays, header):
        for name in (f"{W}.data", f"{W}.indices"):
            arrays[name] = arrays[name][:0]
        change(f"{W}.indptr", lambda array: cut(*last)(np.zeros_like(array)))(arrays, header)

    return edit


def say(**fields):
    def edit(arrays, header):
        header["reckeeper"] = json.dumps({**json.loads(header["reckeeper"]), **fields})

    return edit


def header_of(**fields):
    return lambda arrays, header: header.update(fields)


UNSOUND = {
    "factors not a number": change("model.components", set_to((0, 0), np.nan)),
    "factors infinite": change("model.components", set_to((0, 0), np.inf)),
    "factors too few": change("model.components", lambda array: array[:-1]),
    "factors too narrow": change("model.components", lambda array: array[:, :-1]),
    "factors in single precision": change("model.components", np.float32),
    "values not a number": change("model.singular_values", set_to(0, np.nan)),
    "ratios not a number": change("model.explained_variance_ratio", set_to(0, np.nan)),
    "no factors": drop("model.components"),
    "no items": drop("items.bytes"),
    "no popularity": drop("popularity"),
    "popularity negative": change("popularity", set_to(0, -1)),
    "popularity of more than all": change("popularity", set_to(0, N_USERS + 1)),
    "popularity too short": change("popularity", lambda array: array[:-1]),
    "popularity not whole": change("popularity", np.float64),
    "ids that end before they begin": change("items.bounds", set_to(1, -5)),
    "ids that end beyond": change("items.bounds", set_to(-1, 10**6)),
    "ids that go back": change("items.bounds", set_to(3, 1)),
    "ids of another type": change("items.bounds", np.int32),
    "ids that are no text": change("items.bytes", set_to(0, 255)),
    "an id with a NUL": change("items.bytes", set_to(1, 0)),
    "an id with a line end": change("items.bytes", set_to(1, 10)),
    "an id with an end of medium": change("items.bytes", cut(0xC2, 0x99)),
    "ids out of order": change("items.bytes", set_to(4, 255 - 128)),
    "an id too few": change("items.bounds", lambda array: array[1:]),
    "ids in a square": change("items.bounds", lambda array: array[:-1].reshape(2, -1)),
    "another number of items": say(n_items=N_ITEMS - 1),
    "an unknown recipe": say(recipe="magic"),
    "a recipe that is no name": say(recipe=["svd"]),
    "an unknown setting": say(settings={"temperature": 1}),
    "settings that are none": say(settings=5),
    "an unknown field": say(colour="red"),
    "variance that is no number": say(explained_variance=float("nan")),
    "variance as text": say(explained_variance="98.90%"),
    "a time that is none": say(trained_at="yesterday"),
    "a time out of range": say(trained_at=2**62),
    "a count that is none": say(training_samples=None),
    "a negative watermark": say(watermark=-1),
    "another format": header_of(format="reckeeper-0"),
    "a header that is no JSON": header_of(reckeeper="{"),
    "a header that is no object": header_of(reckeeper="[1]"),
    "a header too deep": header_of(reckeeper="[" * 100_000),
    "a header too long": say(data={"x": "x" * 2**22}),
    "a verdict that is none": say(verdict="promote"),
    "metrics not a number": say(metrics={"ndcg@10": float("nan")}),
    "metrics without end": header_of(reckeeper='{"metrics": {"ndcg@10": 1e999}}'),
    "a number without end": say(cause={"n": 2**64}),
    "data too deep": say(data={"x": [[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]}),
    "data that are none": say(data=None),
    "half a character": header_of(reckeeper='{"actor": "\\ud83d"}'),
    "a character that is none": say(actor="ann\0"),
    "an actor without end": say(actor="a" * 257),
    "a trigger without end": say(trigger="a" * 65),
    "a fingerprint without end": say(fingerprint="f" * 65),
    "a fingerprint that is none": say(fingerprint=7),
    "an origin that is none": say(origin=["elsewhere"]),
    "libraries that are none": say(libraries=None),
    "memory that is none": say(peak_memory_bytes=-1),
}


W = "model.item_weights"
UNSOUND_WEIGHTS = {
    "weights not a number": change(f"{W}.data", set_to(0, np.nan)),
    "weights too few": change(f"{W}.data", lambda array: array[:-1]),
    "column out of range": change(f"{W}.indices", set_to(5, N_ITEMS)),
    "column far out of range": change(f"{W}.indices", set_to(5, 2**31 - 1)),
    "column negative": change(f"{W}.indices", set_to(5, -1)),
    "rows that go back": change(f"{W}.indptr", set_to(3, 0)),
    "rows that begin late": change(f"{W}.indptr", set_to(0, 1)),
    "rows that end beyond": change(f"{W}.indptr", set_to(-1, 10**6)),
    "rows anywhere, and an end at 0": change(f"{W}.indptr", cut(2**40, -5, 0)),
    "rows anywhere, in a circle": change(
        f"{W}.indptr", cut(2**62, 2**63 - 1, -(2**63), -(2**62), None)
    ),
    "no entries, and rows of many": without_entries(2**40, -5, 0),
    "a row too few": change(f"{W}.indptr", lambda array: array[:-1]),
    "rows of another type": change(f"{W}.indptr", np.float64),
    "columns of another type": change(f"{W}.indices", np.int64),
}


ADDED = {
    "fingerprint": "", "latest_at": 0, "data": {}, "actor": "", "cause": None, "metrics": None,
    "verdict": None, "peak_memory_bytes": 0, "libraries": {}, "decided": {}, "origin": None,
}  # fmt: skip


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Metadata)])
def test_a_file_that_does_not_say_all_that_it_must_is_refused(made, written, field):
    with safe_open(written, framework="np") as stream:
        header = dict(stream.metadata())
    fields = json.loads(header["reckeeper"])
    del fields[field]
    header["reckeeper"] = json.dumps(fields)
    save_file(load_file(written), written, metadata=header)
    if field == "decided":  # it came after the first files
        assert artifact.read(written).metadata.decided == {}
        return
    with pytest.raises(ArtifactError, match=f"its metadata lack {field}"):
        artifact.read(written)


def test_what_is_known_of_a_version_is_in_its_file(made, tmp_path):
    told = {
        "fingerprint": "f" * 32, "latest_at": 2**50, "data": {"weights": {"click": 1.0}},
        "actor": "page", "cause": {"rule": "max_age", "sentence": "Ü 🎬"},
        "metrics": {"ndcg@10": {"mean": 0.25}}, "verdict": {"decision": "reject"},
        "peak_memory_bytes": 5, "libraries": {"numpy": "2"}, "decided": {"order": 0.5},
        "origin": {"timeline": [{"x": None}]},
    }  # fmt: skip
    assert set(told) == set(ADDED)
    metadata = dataclasses.replace(made.metadata, **told)
    ModelStore(tmp_path).write(
        dataclasses.replace(made, metadata=metadata), TRAINED, cell_limit=10**6
    )
    assert artifact.read(tmp_path / artifact.native_name(1)).metadata == metadata
    with (tmp_path / artifact.pickle_name(1)).open("rb") as stream:
        exported = pickle.load(stream)["metadata"]
    assert {name: exported[name] for name in told} == told


@pytest.mark.parametrize(
    "data",
    [
        {"weights": "x"},
        {"weights": [1]},
        {"weights": {"click": "a"}},
        {"weights": None},
        {"weights": {"click": True}},
        {"half_life_days": "x"},
        {"half_life_days": 0},
        {"half_life_days": -1.0},
    ],
    ids=str,
)
def test_data_with_which_no_history_can_be_weighed_are_refused(made, tmp_path, data):
    metadata = dataclasses.replace(made.metadata, data=data)
    with pytest.raises(DataError, match=r"its weights of the interaction types|its half_life_days"):
        ModelStore(tmp_path).write(
            dataclasses.replace(made, metadata=metadata), TRAINED, cell_limit=0
        )


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2", "BF16", "F16"])
def test_types_that_are_never_written_are_refused(written, dtype):
    size = 1 if dtype.startswith("F8") else 2
    content = written.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["odd"] = {
        "dtype": dtype,
        "shape": [4 // size],
        "data_offsets": [len(content) - 8 - length, len(content) - 4 - length],
    }
    packed = json.dumps(header).encode()
    packed += b" " * (-len(packed) % 8)
    written.write_bytes(
        len(packed).to_bytes(8, "little") + packed + content[8 + length :] + bytes(4)
    )
    with pytest.raises(ArtifactError, match="is not a sound model file"):
        artifact.read(written)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2**64, "\ud83d"])
def test_what_no_file_may_tell_is_not_written(made, tmp_path, value):
    metadata = dataclasses.replace(made.metadata, metrics={"ndcg@10": value})
    with pytest.raises(DataError, match="Version 1 cannot be written: "):
        ModelStore(tmp_path).write(
            dataclasses.replace(made, metadata=metadata), TRAINED, cell_limit=0
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("edit", UNSOUND.values(), ids=UNSOUND)
def test_an_unsound_file_is_refused(written, edit):
    with safe_open(written, framework="np") as stream:
        header = dict(stream.metadata())
    arrays = load_file(written)
    edit(arrays, header)
    save_file(arrays, written, metadata=header)
    with pytest.raises(ArtifactError, match=r"model-000001\.safetensors is not a sound model file"):
        artifact.read(written)


@pytest.mark.parametrize("edit", UNSOUND_WEIGHTS.values(), ids=UNSOUND_WEIGHTS)
def test_an_unsound_sparse_matrix_is_refused(item_weights, tmp_path, edit):
    arrays, header = {**item_weights[0]}, item_weights[1]
    edit(arrays, header)
    path = tmp_path / artifact.native_name(1)
    save_file(arrays, path, metadata=header)
    with pytest.raises(ArtifactError, match=r"model-000001\.safetensors is not a sound model file"):
        artifact.read(path)


# Writing


def test_versions_are_never_overwritten(made, written):
    before = written.read_bytes()
    with pytest.raises(ArtifactError, match="is there already; versions are never overwritten"):
        ModelStore(written.parent).write(made, TRAINED, cell_limit=10**6)
    assert written.read_bytes() == before
    assert len(list(written.parent.iterdir())) == 2


def test_a_disk_that_is_full_leaves_nothing(made, tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(StorageError, match=r"could not be written to .*RECKEEPER_MODEL_DIR"):
            ModelStore(tmp_path / "models").write(made, TRAINED, cell_limit=10**6)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert list((tmp_path / "models").iterdir()) == []


def test_of_two_files_neither_is_left_without_the_other(made, tmp_path):
    (tmp_path / artifact.pickle_name(1)).write_text("somebody's")
    with pytest.raises(ArtifactError, match="is there already"):
        ModelStore(tmp_path).write(made, TRAINED, cell_limit=10**6)
    (left,) = tmp_path.iterdir()
    assert left.read_text() == "somebody's"


def test_a_native_file_that_is_there_is_taken_byte_for_byte(made, written, tmp_path):
    folder = tmp_path / "other"
    native, exported = ModelStore(folder).write(made, TRAINED, cell_limit=10**6, native=written)
    assert (folder / native.name).read_bytes() == written.read_bytes()
    assert (folder / exported.name).exists()
    written.unlink()
    artifact.read(folder / native.name, sha256=native.sha256)


def test_a_folder_that_cannot_be_made_is_named(made, tmp_path):
    (tmp_path / "models").write_text("a file")
    with pytest.raises(StorageError, match=f"could not be written to {tmp_path}/models"):
        ModelStore(tmp_path / "models").write(made, TRAINED, cell_limit=10**6)


def test_what_writers_left_behind_is_removed(written):
    folder = written.parent
    (folder / ".model-000002.pkl.4711.tmp").write_text("half")
    (folder / "notes.tmp").write_text("somebody's")
    ModelStore(folder).remove_unfinished()
    assert {path.name for path in folder.iterdir()} == {
        "notes.tmp", "model-000001.pkl", "model-000001.safetensors",
    }  # fmt: skip
    ModelStore(folder / "missing").remove_unfinished()


def test_what_is_being_written_is_not_removed(written):
    folder = written.parent
    for version in (2, 3):
        (folder / f".{artifact.native_name(version)}.4711.tmp").write_text("half")
    ModelStore(folder).remove_unfinished(in_progress=lambda: {3})
    assert [path.name for path in folder.glob(".*")] == [".model-000003.safetensors.4711.tmp"]


def test_delete(written):
    (written.parent / "notes.txt").write_text("somebody's")
    ModelStore(written.parent).delete(1)
    ModelStore(written.parent).delete(1)
    assert [path.name for path in written.parent.iterdir()] == ["notes.txt"]
    ModelStore(written.parent / "missing").delete(1)


def test_both_files_are_set_aside_under_one_mark(written):
    folder = written.parent
    (folder / "model-000002.safetensors").symlink_to("nowhere")
    for version in (1, 2):
        ModelStore(folder).set_aside(version)
    assert ModelStore(folder).versions() == set()
    assert {artifact.aside_version(path.name) for path in ModelStore(folder).aside_files()} == {
        1,
        2,
    }
    native, other = sorted(ModelStore(folder).aside_files(), key=lambda path: path.name[9:])
    assert [artifact.aside_version(path.name) for path in (native, other)] == [1, 2]
    assert native.with_suffix(".pkl").exists()
    ModelStore(folder).delete_aside(native)
    assert ModelStore(folder).aside_files() == [other]
    assert ModelStore(folder / "missing").aside_files() == []


# Names and the link


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("model-000001.safetensors", 1),
        ("model-000012.pkl", 12),
        ("model-1234567.pkl", 1234567),
        ("model-000001.pkl.tmp", None),
        (".model-000001.pkl.12.tmp", None),
        ("model-.pkl", None),
        ("model--00001.pkl", None),
        ("000001.pkl", None),
        ("model-000001", None),
        ("model-00000a.pkl", None),
        ("retrained_svd_model.pkl", None),
        ("", None),
    ],
)
def test_version_of(name, version):
    assert artifact.version_of(name) == version


def test_names():
    assert artifact.native_name(7) == "model-000007.safetensors"
    assert artifact.pickle_name(7) == "model-000007.pkl"


def test_the_link_is_relative_and_follows_the_version(tmp_path):
    link = tmp_path / "retrained_svd_model.pkl"
    assert ModelStore(tmp_path).linked_version() is None
    for version in (1, 2, 2, 1):
        ModelStore(tmp_path).point_link(version)
        assert os.readlink(link) == f"model-00000{version}.pkl"
        assert ModelStore(tmp_path).linked_version() == version
    ModelStore(tmp_path).point_link(None)
    ModelStore(tmp_path).point_link(None)
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_died_at_the_link_is_no_obstacle(tmp_path):
    (tmp_path / ".retrained_svd_model.pkl.tmp").symlink_to("model-000009.pkl")
    ModelStore(tmp_path).point_link(1)
    assert ModelStore(tmp_path).linked_version() == 1
    assert [path.name for path in tmp_path.iterdir()] == ["retrained_svd_model.pkl"]


def test_processes_that_link_at_the_same_time_do_not_fail(tmp_path):
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        done = [threads.submit(ModelStore(tmp_path).point_link, 1 + n % 3) for n in range(200)]
        for future in done:
            future.result()
    assert ModelStore(tmp_path).linked_version() in {1, 2, 3}
    assert [path.name for path in tmp_path.iterdir()] == ["retrained_svd_model.pkl"]


def test_the_link_still_holds_when_the_folder_moves(written, tmp_path):
    ModelStore(written.parent).point_link(1)
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    assert (moved / "retrained_svd_model.pkl").read_bytes() == (
        moved / "model-000001.pkl"
    ).read_bytes()


@pytest.mark.parametrize("wrong", ["file", "absolute", "dangling"])
def test_a_wrong_link_is_repaired(written, wrong):
    link = written.parent / "retrained_svd_model.pkl"
    if wrong == "file":
        link.write_text("a copy")
    else:
        link.symlink_to(written.with_suffix(".pkl") if wrong == "absolute" else "nowhere")
    ModelStore(written.parent).point_link(1)
    assert os.readlink(link) == "model-000001.pkl"


POINT = """
import sys
from pathlib import Path
from reckeeper import arrays, artifact

folder, removed = Path(sys.argv[1]), []
sys.addaudithook(lambda event, args: removed.append(str(args[0])) if event == "os.remove" else None)
for version in (1, 2, 1):
    artifact.ModelStore(folder).point_link(version)
assert str(folder / artifact.ACTIVE_LINK) not in removed, removed
"""


def test_the_link_is_replaced_and_never_taken_away(tmp_path):
    subprocess.run([sys.executable, "-c", POINT, tmp_path], check=True)


# The pickle, as a user opens it


def with_all_they_need(*names):
    """Return these installed packages and all that they need."""
    needed, waiting = {}, [Requirement(name) for name in names]
    while waiting:
        requirement = waiting.pop()
        is_for_us = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if is_for_us and requirement.name not in needed:
            package = needed[requirement.name] = importlib.metadata.distribution(requirement.name)
            waiting += map(Requirement, package.requires or ())
    return needed


@pytest.fixture(scope="session")
def plain_python(tmp_path_factory):
    """Return a Python that has pandas, scipy and scikit-learn, and nothing of ours."""
    folder = tmp_path_factory.mktemp("plain")
    venv.create(folder)
    (site_packages,) = folder.glob("lib/python*/site-packages")
    packages = with_all_they_need("pandas", "scipy", "scikit-learn")
    assert "pyarrow" not in packages
    for package in packages.values():
        for name in {path.parts[0] for path in package.files or ()} - {"..", "__pycache__"}:
            target = site_packages / name
            if not target.exists():
                target.symlink_to(package.locate_file(name))
    return folder / "bin" / "python"


OPEN = """
import json, pickle, sys

with open(sys.argv[1], "rb") as stream:
    parts = pickle.load(stream)
strays = [n for n in sys.modules if n.split(".")[0] in ("reckeeper", "pyarrow", "safetensors")]

import numpy as np

ratings = parts["rating_matrix"].toarray()
left, values, right = np.linalg.svd(ratings, full_matrices=False)
rank = len(parts["svd_model"].singular_values_)
expected = (left[:, :rank] * values[:rank]) @ right[:rank]
scale = np.abs(expected).max()
block = parts["svd_model"].inverse_transform(
    parts["svd_model"].transform(parts["rating_matrix"][5:9])
)
predicted = parts["predicted_ratings"]
print(json.dumps({
    "strays": strays,
    "names": sorted(parts),
    "types": {name: type(part).__name__ for name, part in parts.items()},
    "block error": np.abs(block - expected[5:9]).max() / scale,
    "error": None if predicted is None else np.abs(predicted.to_numpy() - expected).max() / scale,
    "users": None if predicted is None else predicted.index.tolist(),
    "items": None if predicted is None else predicted.columns.tolist(),
    "dtypes": None if predicted is None else [str(a.dtype) for a in predicted.axes],
    "explained": float(parts["svd_model"].explained_variance_ratio_.sum()),
    "components": list(parts["svd_model"].components_.shape),
    "ratings": ratings.tolist(),
    "metadata": parts["metadata"],
}))
"""


def open_plain(python, path):
    run = subprocess.run(
        [python, "-I", "-W", "error", "-c", OPEN, path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.parametrize("missing", ["reckeeper", "pyarrow"])
def test_the_plain_python_is_plain(plain_python, missing):
    run = subprocess.run([plain_python, "-I", "-c", f"import {missing}"], capture_output=True)
    assert b"ModuleNotFoundError" in run.stderr


def test_the_pickle_opens_with_pandas_scipy_and_scikit_learn_alone(made, written, plain_python):
    found = open_plain(plain_python, written.with_suffix(".pkl"))
    assert found["strays"] == []
    assert found["types"] == {
        "rating_matrix": "csr_matrix",
        "svd_model": "TruncatedSVD",
        "predicted_ratings": "DataFrame",
        "metadata": "dict",
    }
    assert found["error"] <= 1e-8
    assert found["block error"] <= 1e-8
    assert found["users"] == found["metadata"]["users"] == TRAINED.users.ids
    assert found["items"] == found["metadata"]["items"] == TRAINED.items.ids
    assert found["dtypes"] == ["object", "object"]
    assert found["ratings"] == TRAINED.weights.toarray().tolist()
    assert found["components"] == [10, N_ITEMS]
    assert found["explained"] == pytest.approx(made.metadata.explained_variance, rel=1e-12)


def test_the_pickles_metadata(made, written, plain_python):
    metadata = open_plain(plain_python, written.with_suffix(".pkl"))["metadata"]
    assert metadata["timestamp"] == "2025-12-04 23:42:15"
    assert {name: metadata[name] for name in dataclasses.asdict(made.metadata)} == (
        dataclasses.asdict(made.metadata)
    )


@pytest.mark.parametrize(("over", "has_table"), [(0, True), (1, False)])
def test_above_the_cell_limit_any_block_comes_from_the_factors(
    made, tmp_path, plain_python, over, has_table
):
    _, exported = ModelStore(tmp_path).write(made, TRAINED, cell_limit=N_USERS * N_ITEMS - over)
    found = open_plain(plain_python, tmp_path / exported.name)
    assert (found["error"] is not None) is has_table
    assert found["block error"] <= 1e-8
    assert found["names"] == ["metadata", "predicted_ratings", "rating_matrix", "svd_model"]


OPEN_POPULARITY = """
import json, pickle, sys

with open(sys.argv[1], "rb") as stream:
    parts = pickle.load(stream)
predicted = parts["predicted_ratings"]
print(json.dumps({
    "strays": [n for n in sys.modules if n.split(".")[0] in ("reckeeper", "pyarrow")],
    "svd_model": parts["svd_model"],
    "settings": parts["metadata"]["settings"],
    "item_scores": parts["item_scores"].tolist(),
    "predicted": None if predicted is None else predicted.to_numpy().tolist(),
    "dtypes": None if predicted is None else sorted({str(each) for each in predicted.dtypes}),
}))
"""


@pytest.mark.parametrize("cell_limit", [0, N_USERS * N_ITEMS])
def test_the_pickle_of_what_does_not_decompose(tmp_path, plain_python, cell_limit):
    made = make(recipe="popularity", settings={"half_life_days": 30})
    _, exported = ModelStore(tmp_path).write(made, TRAINED, cell_limit=cell_limit)
    run = subprocess.run(
        [plain_python, "-I", "-W", "error", "-c", OPEN_POPULARITY, tmp_path / exported.name],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    expected = made.predicted_ratings(TRAINED).to_numpy().tolist()
    assert found["strays"] == []
    assert found["svd_model"] is None
    assert found["settings"] == {"half_life_days": 30.0}
    assert [found["item_scores"]] * N_USERS == expected
    assert found["predicted"] == (expected if cell_limit else None)
    assert found["dtypes"] == (["float64"] if cell_limit else None)


def test_a_pickle_of_what_came_from_elsewhere_has_no_users(made, tmp_path, plain_python):
    _, exported = ModelStore(tmp_path).write(made, None, cell_limit=10**6)
    with (tmp_path / exported.name).open("rb") as stream:
        parts = pickle.load(stream)
    assert parts["rating_matrix"].shape == (0, N_ITEMS)
    assert parts["predicted_ratings"].shape == (0, N_ITEMS)
    assert parts["metadata"]["items"] == TRAINED.items.ids


def test_predicted_ratings_follow_the_order_of_each_row():
    made = make(recipe="spectral", settings={"order": 0.5, "n_components": 5})
    whole = made.predicted_ratings(TRAINED)
    untimed = dataclasses.replace(TRAINED, latest_at=None)
    assert not np.allclose(whole, made.predicted_ratings(untimed))
    np.testing.assert_allclose(whole, made.model.score(TRAINED.histories), rtol=1e-6)
    block = made.predicted_ratings(TRAINED, start=5, stop=9)
    np.testing.assert_allclose(block, whole.iloc[5:9], rtol=1e-6)


def test_predicted_ratings_of_a_block(made):
    whole = made.predicted_ratings(TRAINED)
    assert whole.shape == (N_USERS, N_ITEMS)
    block = made.predicted_ratings(TRAINED, start=5, stop=9)
    assert block.index.tolist() == TRAINED.users.ids[5:9]
    np.testing.assert_allclose(block, whole.iloc[5:9], rtol=1e-12, atol=1e-14)
