"""Bundles: the same answers elsewhere, and nothing that a hostile one could do."""

import hashlib
import io
import itertools
import json
import os
import pickle
import stat
import struct
import zipfile
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from scipy import sparse
from tests.unit.small_models import DENSE, TRAINED, add_version, small_model

from reckeeper import artifact, audit, clock, storage, wire
from reckeeper.artifact import ModelStore
from reckeeper.artifact import bundle as bundles
from reckeeper.config import Settings
from reckeeper.errors import (
    ArtifactError,
    DataError,
    NotFoundError,
    StorageError,
    TooLargeError,
    UnavailableError,
)
from reckeeper.matrix import Histories
from reckeeper.recipes import RECIPES
from reckeeper.registry import Registry

MANIFEST, MODEL = "manifest.json", "model.safetensors"
CELLS = 100


@pytest.fixture
def there(settings, tmp_path):
    """Return the registry of another installation."""
    other = Settings.from_env(
        {
            **settings.to_env(),
            "RECKEEPER_DATA_DIR": str(tmp_path / "there"),
            "RECKEEPER_MODEL_DIR": str(tmp_path / "there" / "models"),
        }
    )
    storage.migrate(other)
    database = storage.open_database(other)
    yield Registry(database, other.model_dir)
    database.close()


def files(registry):
    paths = registry.store.folder.rglob("*") if registry.store.folder.is_dir() else ()
    return sorted(path.name for path in paths if "audit-head" not in path.name)


# From a server that has it


def test_a_version_whose_file_is_elsewhere_is_fetched_and_verified(
    database, registry, settings, tmp_path
):
    for _ in range(3):
        add_version(registry, settings)
    asked = []

    def fetch(version, target):
        asked.append(version)
        registry.transfer.export_bundle(version, target)
        return target

    other = Registry(database, tmp_path / "other", fetch=fetch)
    assert other.versions.load(2).artifact.items.ids == registry.versions.load(2).artifact.items.ids
    other.versions.load(2)
    assert asked == [2], "it is there now"
    assert other.store.native(2).read_bytes() == registry.store.native(2).read_bytes()
    registry.versions.delete(2, actor="ann")
    other.versions.load(3)
    assert other.store.versions() == {3}, "what was deleted goes here too"


@pytest.mark.parametrize("other_version", [True, False])
def test_what_is_fetched_and_is_not_the_version_is_refused(
    database, registry, settings, tmp_path, other_version
):
    for _ in range(2):
        add_version(registry, settings)

    def fetch(version, target):
        if not other_version:
            raise UnavailableError("The server at http://elsewhere does not answer.")
        registry.transfer.export_bundle(1, target)
        return target

    other = Registry(database, tmp_path / "other", fetch=fetch)
    reason = "another file than was registered" if other_version else "RECKEEPER_MODEL_SOURCE_URL"
    with pytest.raises(
        ArtifactError, match=f"of version 2 is not in .* be fetched: .*{reason}"
    ) as caught:
        other.versions.load(2)
    assert "elsewhere" not in caught.value.message  # but in what is private
    assert other_version or "http://elsewhere does not answer" in caught.value.in_full
    assert other.store.versions() == set()


# There and back


@pytest.mark.parametrize("recipe", RECIPES)
def test_an_imported_version_gives_the_same_answers(registry, settings, there, tmp_path, recipe):
    told = {
        "metrics": {"ndcg@10": {"mean": 0.2, "low": 0.1, "high": 0.3}},
        "verdict": {"decision": "promote", "sentence": "No worse."},
        "fingerprint": "f" * 32,
        "data": {"half_life_days": 30.0},
        "libraries": {"numpy": "2.4"},
        "peak_memory_bytes": 10**6,
        "cause": {"rule": "max_age", "sentence": "It was old."},
    }
    for _ in range(3):
        version = add_version(registry, settings, recipe=recipe, actor="ann", **told)
    registry.versions.note(version, "the good one 🎬", actor="ann")
    registry.switch.activate(registry.versions.load(version), actor="ann", reason="good")
    target = tmp_path / "bundle.zip"
    written = registry.transfer.export_bundle(version, target)
    assert (written.name, written.n_bytes) == (target.name, target.stat().st_size)
    assert written.sha256 == hashlib.sha256(target.read_bytes()).hexdigest()

    assert there.transfer.import_bundle(target, actor="ben", cell_limit=CELLS) == 1
    made, came = registry.versions.load(version).artifact, there.versions.load(1).artifact
    rows = sparse.csr_array(np.vstack([DENSE, [[0.0, 0.0, 5.0]]]))
    np.testing.assert_array_equal(
        came.model.score(Histories(rows)), made.model.score(Histories(rows))
    )
    assert came.items.ids == made.items.ids
    np.testing.assert_array_equal(came.popularity, made.popularity)
    before, after = registry.versions.describe(version), there.versions.describe(1)
    same = {*told, "recipe", "settings", "n_users", "training_samples", "trained_at", "note"}
    assert {name: getattr(after, name) for name in same} == {
        name: getattr(before, name) for name in same
    }
    assert (after.status, after.trigger, after.job_id) == ("inactive", "import", None)
    assert after.served is False
    origin = after.origin
    assert (origin["version"], origin["sha256"]) == (3, before.files[0].sha256)
    shown = wire.ModelDetails.model_validate(before)
    assert origin["timeline"] == shown.model_dump()["timeline"]
    assert origin["trained_at"] == clock.rfc3339(made.metadata.trained_at)
    assert origin["imported_at"] > origin["trained_at"]
    assert came.metadata.origin == origin
    assert files(there) == ["model-000001.pkl", "model-000001.safetensors"]
    there.switch.activate(there.versions.load(1), actor="ben")


@pytest.mark.parametrize(
    "told",
    [
        {"verdict": {}},
        {"verdict": {"decision": "maybe", "sentence": 7}},
        {"verdict": {"decision": "reject", "sentence": {"x": 1}, "standing": []}},
        {"metrics": {"ndcg@10": "good"}},
        {"cause": {"rule": None}},
        {"data": {"weights": {"click": 1.0}, "left_out_users": {}}},
        {"libraries": {"numpy": [2]}},
        {"origin": {"version": "three"}},
    ],
    ids=str,
)
def test_a_version_that_says_odd_things_of_itself_is_shown_all_the_same(
    registry, settings, there, tmp_path, told
):
    target = tmp_path / "bundle.zip"
    registry.transfer.export_bundle(add_version(registry, settings, **told), target)
    (listed,) = wire.ModelList.model_validate({"models": registry.versions.all()}).models
    shown = wire.ModelAnswer.model_validate({"model": registry.versions.describe(1)}).model
    assert (listed.version, shown.version, shown.verdict) == (1, 1, None)
    compared = wire.ComparedModel.model_validate(registry.versions.describe(1))
    assert compared.recipe == shown.recipe
    if told in ({"verdict": {}}, {"origin": {"version": "three"}}):
        there.transfer.import_bundle(target, actor="ben", cell_limit=CELLS)
    else:
        with pytest.raises(ArtifactError, match="is not a sound bundle: its "):
            there.transfer.import_bundle(target, actor="ben", cell_limit=CELLS)


FAR = 10**15
CLAIMS = {
    "a metric of no name": {"metrics": {"ndcg@![x](y)": {"mean": 0.1}}},
    "a metric without a mean": {"metrics": {"ndcg@10": {"low": 0.1}}},
    "a metric out of range": {"metrics": {"ndcg@10": {"mean": FAR}}},
    "a metric that is true": {"metrics": {"ndcg@10": {"mean": True}}},
    "a bell": {"actor": "ann\x07"},
    "a terminal's colours": {"verdict": {"decision": "promote", "sentence": "\x1b[31mred"}},
    "text turned around": {"verdict": {"decision": "promote", "sentence": "\u202ered"}},
    "a text without end": {"cause": {"rule": "max_age", "sentence": "x" * 10_001}},
    "a name with a bell": {"settings": {"x\x07": 1}},
    "reasons that are none": {
        "verdict": {"decision": "reject", "sentence": "", "reasons": [{"x": 1}]}
    },
    "a headline that is none": {
        "verdict": {"decision": "reject", "sentence": "", "headline": {"ndcg@10": 7}}
    },
    "a difference that is none": {
        "verdict": {
            "decision": "reject",
            "sentence": "",
            "headline": {"ndcg@10": {"active": {"difference": "much"}, "popularity": None}},
        }
    },
    "variance below none": {"explained_variance": -0.5},
    "weights out of range": {"data": {"weights": {"click": 1e9}}},
    "a half-life of ages": {"data": {"half_life_days": 1e9}},
    "users that are none": {"data": {"left_out_users": [7]}},
    "an unknown setting": {"settings": {"temperature": 1}},
}


@pytest.mark.parametrize("name", CLAIMS)
def test_what_no_version_says_of_itself_is_not_taken(registry, settings, there, tmp_path, name):
    path, target = tmp_path / "model.safetensors", tmp_path / "bundle.zip"
    native = registry.store.native(add_version(registry, settings))
    with safe_open(native, framework="np") as stream:
        header = dict(stream.metadata())
    header["reckeeper"] = json.dumps({**json.loads(header["reckeeper"]), **CLAIMS[name]})
    save_file(load_file(native), path, metadata=header)
    write_bundle(target, path)
    with pytest.raises(ArtifactError, match=r"is not a sound (bundle|model file): "):
        there.transfer.import_bundle(target, actor="ben", cell_limit=CELLS)
    assert files(there) == []


@pytest.mark.parametrize("at", [{"actor": "ann\x07"}, {"at": None}, {"action": 7}])
def test_a_history_that_is_none_is_not_taken(registry, settings, there, tmp_path, at):
    target = tmp_path / "bundle.zip"
    native = registry.store.native(add_version(registry, settings))
    entry = {"at": "2025-12-04T23:42:15Z", "action": "activate", "actor": "ann"}
    write_bundle(target, native, timeline=[entry])
    there.transfer.import_bundle(target, actor="ben", cell_limit=CELLS)
    write_bundle(target, native, timeline=[{**entry, **at}])
    with pytest.raises(ArtifactError, match=r"is not a sound bundle: .* timeline"):
        there.transfer.import_bundle(target, actor="ben", cell_limit=CELLS)


def write_bundle(target, native, timeline=()):
    artifact.write_bundle(
        target,
        native,
        n_bytes=native.stat().st_size,
        sha256=hashlib.sha256(native.read_bytes()).hexdigest(),
        note=None,
        timeline=[*timeline],
    )


def test_the_pickle_is_made_anew(registry, settings, there, tmp_path):
    target = tmp_path / "bundle.zip"
    registry.transfer.export_bundle(add_version(registry, settings), target)
    with zipfile.ZipFile(target) as bundle:
        assert bundle.namelist() == [MANIFEST, MODEL]
    there.transfer.import_bundle(target, actor="ben", cell_limit=CELLS)
    with (there.store.folder / "model-000001.pkl").open("rb") as stream:
        exported = pickle.load(stream)
    assert exported["metadata"]["origin"]["version"] == 1
    assert exported["predicted_ratings"].shape == (0, 3)  # whose users are not here


def test_history_goes_on_from_one_installation_to_the_next(registry, settings, there, tmp_path):
    registry.switch.activate(registry.versions.load(add_version(registry, settings)), actor="ann")
    target = tmp_path / "bundle.zip"
    registry.transfer.export_bundle(1, target)
    there.transfer.import_bundle(target, actor="ben", cell_limit=CELLS)
    there.switch.activate(there.versions.load(1), actor="ben")
    there.transfer.export_bundle(1, target)
    assert registry.transfer.import_bundle(target, actor="ann", cell_limit=CELLS) == 2
    history = registry.versions.describe(2).origin["timeline"]
    assert [entry["actor"] for entry in history] == ["ben", "ann"]


def test_an_import_is_in_the_trail(registry, settings, there, tmp_path):
    registry.transfer.export_bundle(add_version(registry, settings), tmp_path / "b.zip")
    there.transfer.import_bundle(tmp_path / "b.zip", actor="ben", cell_limit=CELLS)
    (entry,) = audit.entries(there.versions._database, limit=9)
    assert (entry.actor, entry.action, entry.subject) == ("ben", "import", "model 1")
    assert entry.details["source"]["version"] == 1


def test_what_is_newer_than_an_imported_version_counts_as_newer(
    registry, settings, there, tmp_path
):
    with there.versions._database.write() as connection:
        storage.interactions.append(
            connection, [(f"e{n}", "ann", "x", "click", 1.0, 1000 + n) for n in range(5)]
        )
    for latest_at, watermark in ((0, 0), (999, 0), (1002, 3), (1004, 5), (9999, 5)):
        version = add_version(registry, settings, latest_at=latest_at, watermark=77)
        registry.transfer.export_bundle(version, tmp_path / "b.zip")
        came = there.transfer.import_bundle(tmp_path / "b.zip", actor="ben", cell_limit=CELLS)
        loaded = there.versions.load(came)
        assert (loaded.watermark, loaded.artifact.metadata.watermark) == (watermark, watermark)


def test_only_a_sound_version_is_exported(registry, settings, tmp_path):
    with pytest.raises(NotFoundError):
        registry.transfer.export_bundle(1, tmp_path / "b.zip")
    add_version(registry, settings)
    native = settings.model_dir / "model-000001.safetensors"
    content = bytearray(native.read_bytes())
    content[-1] ^= 1
    native.write_bytes(content)
    with pytest.raises(ArtifactError, match="its content changed"):
        registry.transfer.export_bundle(1, tmp_path / "b.zip")
    native.unlink()
    with pytest.raises(ArtifactError, match=r"model-000001.safetensors could not be bundled"):
        registry.transfer.export_bundle(1, tmp_path / "b.zip")
    assert [path.name for path in tmp_path.glob("*.*")] == []


def test_a_bundle_that_cannot_be_written_is_no_damaged_artifact(registry, settings, tmp_path):
    add_version(registry, settings)
    with pytest.raises(StorageError, match="cannot hold the bundle: No such"):
        registry.transfer.export_bundle(1, tmp_path / "no folder" / "b.zip")


# Hostile bundles


@pytest.fixture(scope="module")
def native(tmp_path_factory):
    """Return the content of a sound native file."""
    folder = tmp_path_factory.mktemp("native")
    ModelStore(folder).write(small_model(), TRAINED, cell_limit=CELLS)
    return (folder / "model-000001.safetensors").read_bytes()


def manifest_of(native, **fields):
    told = {"bytes": len(native), "sha256": hashlib.sha256(native).hexdigest()}
    manifest = {"format": "reckeeper-bundle-1", "model": told, "note": None, "timeline": []}
    return json.dumps({**manifest, **fields})


def packed(*members):
    """Return a ZIP of (name or ZipInfo, content)."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as bundle:
        for member, content in members:
            bundle.writestr(member, content)
    return stream.getvalue()


def sound(native, **fields):
    return packed((MANIFEST, manifest_of(native, **fields)), (MODEL, native))


def typed(name, kind):
    member = zipfile.ZipInfo(name)
    member.external_attr = (kind | 0o777) << 16
    return member


def squeezed(name, method=zipfile.ZIP_DEFLATED):
    member = zipfile.ZipInfo(name)
    member.compress_type = method
    return member


def flagged(content, flag):
    """Return a ZIP whose members claim a flag, in their headers and in the directory."""
    content = bytearray(content)
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = content.find(mark)
        while place >= 0:
            content[place + offset] |= flag
            place = content.find(mark, place + 4)
    return bytes(content)


class Harm:
    """Leaves a file behind if anybody unpickles it."""

    def __init__(self, path):
        self._path = path

    def __reduce__(self):
        return (Path(self._path).write_text, ("done",))


def with_arrays(native, tmp_path, **changed):
    path = tmp_path / "changed.safetensors"
    path.write_bytes(native)
    with safe_open(path, framework="np") as stream:
        header = dict(stream.metadata())
    save_file({**load_file(path), **changed}, path, metadata=header)
    return path.read_bytes()


def huge_header(declared):
    """Return a file that declares a tensor of that many bytes."""
    header = json.dumps(
        {"weights.data": {"dtype": "F64", "shape": [declared // 8], "data_offsets": [0, declared]}}
    ).encode()
    return struct.pack("<Q", len(header)) + header + bytes(64)


def whole(model):
    return packed((MANIFEST, manifest_of(model)), (MODEL, model))


def hostile(native, tmp_path):
    """Yield (name, content of the bundle, what the message says)."""
    manifest = manifest_of(native)
    member = (MODEL, native)
    bomb = bytes(50_000_000)
    yield "empty", b"", "not a zip file"
    yield "no zip", b"garbage" * 999, "not a zip file"
    yield "a pickle", pickle.dumps(Harm(tmp_path / "harm")), "not a zip file"
    yield "cut", sound(native)[:-30], "not a zip file"
    yield "no manifest", packed(member), "it has no manifest.json"
    yield "no model", packed((MANIFEST, manifest)), "it has no model.safetensors"
    for name in ("../evil", "/etc/evil", "a/../../evil", "model.pkl", "x" * 9999, "C:\\evil"):
        yield (
            f"a member {name[:20]!r}",
            packed((MANIFEST, manifest), member, (name, b"x")),
            "which belongs in no bundle",
        )
    yield (
        "a name that ends in the middle",
        packed((MANIFEST, manifest), member).replace(b"model.safetensors", b"model.safetensor\0"),
        "which belongs in no bundle",
    )
    for kind in (stat.S_IFLNK, stat.S_IFDIR, stat.S_IFIFO, stat.S_IFCHR):
        yield (
            f"a model of kind {kind:o}",
            packed((MANIFEST, manifest), (typed(MODEL, kind), b"/etc/passwd")),
            "is a link or similar",
        )
    yield (
        "a bomb",
        packed((MANIFEST, manifest_of(bomb)), (squeezed(MODEL), bomb)),
        r"is compressed \(\d+ bytes for 50000000\)",
    )
    yield (
        "a manifest that is a bomb",
        packed((squeezed(MANIFEST), b" " * 50_000_000), member),
        "is compressed",
    )
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        yield (
            f"method {method}",
            packed((MANIFEST, manifest), (squeezed(MODEL, method), native)),
            "is compressed",
        )
    yield "encrypted", flagged(sound(native), 1), "encrypted"
    yield "patched", flagged(sound(native), 0x20), "compressed patched data"
    yield "another model", packed((MANIFEST, manifest), (MODEL, native[:-1] + b"!")), "content chan"
    yield "a shorter model", packed((MANIFEST, manifest), (MODEL, native[:-1])), "it was cut or ch"
    yield "a large manifest", packed((MANIFEST, manifest + " " * 2**20), member), "too large"
    for name, changed in {
        "no JSON": "{",
        "no object": "[]",
        "no text": b"\xff\xfe{}",
        "too deep": '{"note": ' + "[" * 100_000,
        "deep": '{"note": ' + "[" * 50 + "]" * 50 + "}",
        "not finite": '{"note": NaN}',
        "another format": manifest_of(native, format="reckeeper-bundle-2"),
        "a part too many": manifest_of(native, colour="red"),
        "a note that is a number": manifest_of(native, note=5),
        "a note too long": manifest_of(native, note="x" * 10_001),
        "half a character": manifest_of(native, note="\ud83d"),
        "a timeline that is none": manifest_of(native, timeline={}),
        "a timeline of numbers": manifest_of(native, timeline=[1]),
        "a model that is a list": manifest_of(native, model=[]),
        "a model that is text": manifest_of(native, model="model.safetensors"),
        "bytes as text": manifest_of(native, model={"bytes": "5", "sha256": "0" * 64}),
        "bytes as truth": manifest_of(native, model={"bytes": True, "sha256": "0" * 64}),
        "a hash that is none": manifest_of(native, model={"bytes": 5, "sha256": "../" * 21 + "x"}),
        "a path in it": manifest_of(
            native, model={"bytes": 5, "sha256": "0" * 64, "path": "/etc/passwd"}
        ),
    }.items():
        yield f"a manifest with {name}", packed((MANIFEST, changed), member), ""
    yield "a pickle as model", whole(pickle.dumps(Harm(tmp_path / "harm"))), "not a sound model"
    yield "a model cut, and said to be so", whole(native[:-9]), "not a sound model"
    yield "10 GB declared", whole(huge_header(10 * 10**9)), "not a sound model"
    yield "a header of 2^63", whole(struct.pack("<Q", 2**63) + b"{}"), "not a sound model"
    yield "a header of 1 TB", whole(struct.pack("<Q", 2**40) + b"{" * 99), "not a sound model"
    for name, array in {
        "negative popularity": {"popularity": -np.ones(3, dtype=np.int64)},
        "popularity beyond its users": {"popularity": np.full(3, 4)},
        "NaN scores": {"model.item_scores": np.full(3, np.nan)},
        "scores of another type": {"model.item_scores": np.ones(3, dtype=np.float32)},
        "too few scores": {"model.item_scores": np.ones(2)},
        "ids that go back": {"items.bounds": np.array([0, 3, 2, 3])},
    }.items():
        yield name, whole(with_arrays(native, tmp_path, **array)), "not a sound model"


@pytest.fixture(scope="module")
def cases(native, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    return folder, list(hostile(native, folder))


def test_hostile_bundles_are_refused_and_leave_nothing(registry, settings, cases, tmp_path):
    folder, bundles = cases
    add_version(registry, settings)
    before = files(registry)
    for name, content, message in bundles:
        path = tmp_path / "bundle.zip"
        path.write_bytes(content)
        with pytest.raises((ArtifactError, DataError), match=message or "bundle|note: "):
            pytest.fail(
                f"{name}: {registry.transfer.import_bundle(path, actor='x', cell_limit=CELLS)}"
            )
        assert files(registry) == before, name
        assert [row.version for row in registry.versions.all()] == [1], name
    assert not (folder / "harm").exists()
    assert not [path.name for path in tmp_path.rglob("*evil*")]
    assert registry.versions.reserve(job_id=None) == 2, (
        "a number was spent on a bundle that was refused"
    )


def test_duplicates_are_refused(registry, native, tmp_path):
    for names in itertools.permutations([MANIFEST, MODEL, MODEL]):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as bundle:
            for name in dict.fromkeys(names):
                bundle.writestr(name, native if name == MODEL else manifest_of(native))
            with pytest.warns(UserWarning, match="Duplicate name"):
                bundle.writestr(names[-1], native if names[-1] == MODEL else manifest_of(native))
        (tmp_path / "b.zip").write_bytes(stream.getvalue())
        with pytest.raises(ArtifactError, match=f"it has '{names[-1]}' twice"):
            registry.transfer.import_bundle(tmp_path / "b.zip", actor="x", cell_limit=CELLS)


def test_a_directory_that_is_large_is_not_read(registry, native, tmp_path):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as bundle:
        for number in range(25_000):
            bundle.writestr(f"{number}", b"")
    (tmp_path / "b.zip").write_bytes(stream.getvalue())
    with pytest.raises(ArtifactError, match="its directory or manifest is too large"):
        registry.transfer.import_bundle(tmp_path / "b.zip", actor="x", cell_limit=CELLS)


def test_a_bundle_over_the_limit_is_refused_unread(registry, native, tmp_path):
    path = tmp_path / "b.zip"
    path.write_bytes(sound(native))
    os.truncate(path, artifact.MAX_BUNDLE_BYTES + 1)  # a hole: it takes no room
    with pytest.raises(TooLargeError, match=f"a bundle has {artifact.MAX_BUNDLE_BYTES} at most"):
        registry.transfer.import_bundle(path, actor="x", cell_limit=CELLS)


def test_what_is_no_file_is_refused(registry, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for name, message in (("fifo", "is not a file"), ("none", "cannot be read"), ("", "not a f")):
        with pytest.raises(ArtifactError, match=message):
            registry.transfer.import_bundle(tmp_path / name, actor="x", cell_limit=CELLS)


@hypothesis.given(data=st.data())
def test_a_bundle_that_was_changed_is_refused_or_the_same(native, tmp_path, data):
    content = bytearray(sound(native, note="a note"))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content) - 1))
        match data.draw(st.sampled_from(["flip", "set", "cut", "insert"])):
            case "flip":
                content[place] ^= 1 << data.draw(st.integers(0, 7))
            case "set":
                content[place : place + 4] = data.draw(st.binary(min_size=4, max_size=4))
            case "cut":
                del content[place : place + data.draw(st.integers(1, 100))]
            case "insert":
                content[place:place] = data.draw(st.binary(min_size=1, max_size=40))
        if not content:
            return
    path = tmp_path / "b.zip"
    path.write_bytes(content)
    try:
        read = artifact.read_bundle(path, scratch=tmp_path / "scratch")
    except ArtifactError:
        pass
    else:
        assert read.sha256 == hashlib.sha256(native).hexdigest()
        assert (read.note, read.timeline) == ("a note", [])
    assert list((tmp_path / "scratch").glob("*")) == []


def test_a_full_disk_leaves_nothing(registry, settings, there, tmp_path, monkeypatch):
    registry.transfer.export_bundle(add_version(registry, settings), tmp_path / "b.zip")

    def refuse(*arguments, **options):
        raise OSError(28, "No space left on device")

    for place in (bundles.tempfile, "TemporaryFile"), (artifact.export.pickle, "dump"):
        monkeypatch.setattr(*place, refuse)
        with pytest.raises(StorageError, match="No space left on device"):
            there.transfer.import_bundle(tmp_path / "b.zip", actor="x", cell_limit=CELLS)
        monkeypatch.undo()
        assert files(there) == []


def test_a_database_that_refuses_leaves_nothing(registry, settings, there, tmp_path, monkeypatch):
    registry.transfer.export_bundle(add_version(registry, settings), tmp_path / "b.zip")

    def refuse(*arguments, **options):
        raise DataError("No.")

    monkeypatch.setattr(storage.models, "insert", refuse)
    with pytest.raises(DataError, match="No"):
        there.transfer.import_bundle(tmp_path / "b.zip", actor="x", cell_limit=CELLS)
    assert files(there) == []


# Files that the database does not know


@pytest.fixture
def older(registry, settings):
    """Return a function that brings the database back to what it was, and the folder not."""
    source = settings.data_dir / "reckeeper.sqlite3"
    kept = []

    def keep():
        with registry.versions._database.write() as connection:
            kept.append(connection.connection.driver_connection.serialize())

    def restore():
        registry.versions._database.close()
        for suffix in ("", "-wal", "-shm"):
            Path(f"{source}{suffix}").unlink(missing_ok=True)
        source.write_bytes(kept[-1])

    return keep, restore


def test_versions_newer_than_the_database_come_back_under_their_numbers(registry, settings, older):
    keep, restore = older
    add_version(registry, settings)
    keep()
    for number in (2, 3):
        add_version(registry, settings, fingerprint=str(number))
    registry.switch.activate(registry.versions.load(3), actor="ann")
    before = {number: registry.versions.describe(number) for number in (2, 3)}
    restore()
    registry.switch.repair_link()
    assert registry.recovery.remove_unfinished() == []
    assert registry.recovery.set_aside_unknown() == [2, 3]
    assert [row.version for row in registry.versions.all()] == [1]
    taken_in = registry.recovery.take_in_unknown(actor="cli", cell_limit=CELLS)
    assert [(entry.version, entry.error) for entry in taken_in] == [(2, None), (3, None)]
    for number in (2, 3):
        after = registry.versions.describe(number)
        assert after.files[0] == before[number].files[0], "byte for byte the same"
        assert after.origin is None
        assert after.fingerprint == str(number)
        assert (after.status, after.trained_at) == ("inactive", before[number].trained_at)
        registry.versions.load(number)
    assert "unknown" in files(registry)
    assert list((settings.model_dir / "unknown").iterdir()) == []
    assert registry.recovery.take_in_unknown(actor="cli", cell_limit=CELLS) == []
    assert add_version(registry, settings) == 4


def test_numbers_that_were_given_again_stay_with_the_later(registry, settings, older):
    keep, restore = older
    add_version(registry, settings)
    keep()
    add_version(registry, settings, fingerprint="first")
    add_version(registry, settings, fingerprint="third")
    restore()
    registry.recovery.set_aside_unknown()
    with registry.versions._database.write() as connection:
        storage.models.reserve(connection, above=0, job_id=7)  # 2, by a release that looks nowhere
    taken_in = registry.recovery.take_in_unknown(actor="cli", cell_limit=CELLS)
    assert sorted(entry.version for entry in taken_in) == [3, 4]
    assert registry.versions.describe(3).fingerprint == "third"
    other = registry.versions.describe(4)
    assert (other.fingerprint, other.origin["version"]) == ("first", 2)
    assert registry.versions.load(4).artifact.metadata.origin == other.origin


def test_what_is_not_sound_stays_aside_and_is_named(registry, settings, tmp_path):
    add_version(registry, settings)
    aside = settings.model_dir / "unknown"
    aside.mkdir()
    sound = (settings.model_dir / "model-000001.safetensors").read_bytes()
    (aside / "model-000004.safetensors").write_bytes(b"damaged")
    (aside / "again.safetensors").write_bytes(sound)
    (aside / "link.safetensors").symlink_to("again.safetensors")
    (aside / "harm.safetensors").write_bytes(pickle.dumps(Harm(tmp_path / "harm")))
    (aside / "harm.pkl").write_bytes(pickle.dumps(Harm(tmp_path / "harm")))
    os.mkfifo(aside / "fifo.safetensors")
    before = files(registry)
    taken_in = registry.recovery.take_in_unknown(actor="cli", cell_limit=CELLS)
    errors = {entry.file: entry.error for entry in taken_in}
    assert [entry.version for entry in taken_in] == [None] * 5
    for name, message in {
        "model-000004.safetensors": "is not a sound model file",
        "again.safetensors": "is version 1 already",
        "link.safetensors": "is a link",
        "harm.safetensors": "is not a sound model file",
        "fifo.safetensors": "is not a file",
    }.items():
        assert message in errors[name]
    assert files(registry) == before
    assert not (tmp_path / "harm").exists()


def test_a_file_that_died_on_its_way_in_is_not_lost(registry, settings, monkeypatch):
    add_version(registry, settings)
    made = small_model(version=5, fingerprint="five")
    ModelStore(settings.model_dir).write(made, TRAINED, cell_limit=CELLS)

    def die(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(storage.models, "insert", die)
    with pytest.raises(KeyboardInterrupt):
        registry.recovery.take_in_unknown(actor="cli", cell_limit=CELLS)
    monkeypatch.undo()
    (taken_in,) = registry.recovery.take_in_unknown(actor="cli", cell_limit=CELLS)
    assert taken_in.version == 6, "5 was taken, and numbers never come again"
    assert registry.versions.describe(6).fingerprint == "five"
    assert registry.versions.describe(6).origin["version"] == 5


def test_a_file_cannot_say_from_where_on_versions_are_counted(registry, settings):
    add_version(registry, settings)
    made = small_model(version=999_999_999)
    ModelStore(settings.model_dir).write(made, TRAINED, cell_limit=CELLS)
    (taken_in,) = registry.recovery.take_in_unknown(actor="cli", cell_limit=CELLS)
    assert taken_in.version == 2
    assert registry.versions.describe(2).origin["version"] == 999_999_999
    ModelStore(settings.model_dir).write(made, TRAINED, cell_limit=CELLS)
    assert registry.versions.reserve(job_id=None) == 3


def test_a_version_set_aside_twice_is_taken_in_twice(registry, settings):
    for fingerprint in ("a", "b"):
        made = small_model(version=5, fingerprint=fingerprint)
        ModelStore(settings.model_dir).write(made, TRAINED, cell_limit=CELLS)
        registry.recovery.set_aside_unknown()
    taken_in = registry.recovery.take_in_unknown(actor="cli", cell_limit=CELLS)
    assert [entry.version for entry in taken_in] == [5, 6]
    assert {registry.versions.describe(number).fingerprint for number in (5, 6)} == {"a", "b"}
    assert [registry.versions.describe(number).origin is None for number in (5, 6)] == [
        True,
        False,
    ]


def test_taking_in_keeps_what_the_file_says(registry, settings):
    made = small_model(version=3, trigger="schedule", is_demo=True)
    ModelStore(settings.model_dir).write(made, TRAINED, cell_limit=CELLS)
    registry.recovery.take_in_unknown(actor="cli", cell_limit=CELLS)
    described = registry.versions.describe(3)
    assert (described.trigger, described.is_demo) == ("schedule", True)
