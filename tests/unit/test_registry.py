"""Versions and their life: the database decides, the files follow."""

import dataclasses
import os
import re
import shutil

import pytest

from reckeeper import artifact, storage
from reckeeper.artifact import Artifact
from reckeeper.config import Settings
from reckeeper.errors import ArtifactError, ConflictError, NotFoundError
from reckeeper.recipes.popularity import Popularity
from reckeeper.registry import Registry

pytestmark = pytest.mark.usefixtures("taste")


@pytest.fixture
def activate(registry):
    def act(version):
        registry.activate(registry.load(version), actor="test")

    return act


def files(settings):
    return sorted(path.name for path in settings.model_dir.iterdir())


def trail(database, *, action):
    with database.read() as connection:
        entries = storage.audit_log.latest(connection, limit=100)
    return [entry for entry in reversed(entries) if entry["action"] == action]


def test_a_new_version_is_inactive(registry, train):
    assert registry.versions() == []
    assert registry.active_version() is None
    version = train()
    assert version == 1
    assert registry.version(1)["status"] == "inactive"
    assert registry.active_version() is None


def test_a_version_is_described_as_the_contract_says(registry, train, activate, settings, taste):
    activate(train(trigger="schedule"))
    (described,) = registry.versions()
    assert described == registry.version(1)
    assert list(described)[:8] == [
        "name", "path", "type", "status", "n_users", "n_items", "explained_variance", "trained_on"
    ]  # fmt: skip
    assert described["name"] == "Retrained SVD Model"
    assert described["path"] == str(settings.model_dir / "retrained_svd_model.pkl")
    assert described["type"] == "SVD"
    assert described["status"] == "active"
    assert (described["n_users"], described["n_items"]) == (12, 9)
    assert re.fullmatch(r"\d{1,3}\.\d{2}%", described["explained_variance"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", described["trained_on"])
    assert described["version"] == 1
    assert described["recipe"] == "svd"
    assert described["settings"] == {"n_components": 10}
    assert described["training_samples"] == len(taste)
    assert described["trigger"] == "schedule"
    assert described["job_id"] == 1
    assert described["is_demo"] is False
    assert 0 <= described["seconds"] < 60


def test_a_recipe_that_does_not_decompose_goes_by_its_name(registry, train, settings, lost):
    first = registry.load(train()).artifact
    model = Popularity.fit(first.matrix, settings={})
    metadata = dataclasses.replace(
        first.metadata, version=2, recipe=model.name, settings=model.settings,
        explained_variance=model.explained_variance,
    )  # fmt: skip
    made = Artifact(metadata, first.matrix, model)
    registry.register(
        metadata, artifact.write(made, settings.model_dir, cell_limit=10**6), job_id=None
    )
    described = registry.version(2)
    assert (described["type"], described["recipe"]) == ("popularity", "popularity")
    assert described["name"] == "Retrained SVD Model"
    assert described["explained_variance"] == "0.00%"
    assert described["settings"] == {"half_life_days": None}
    answer = registry.retrain_answer(2, job_id=5)
    assert answer["message"].endswith(" samples, 0.00% variance explained")
    assert answer["details"]["explained_variance"] == 0.0
    assert lost.rebuild() == [1, 2]
    assert lost.version(2)["type"] == "popularity"


def test_the_answer_to_a_retrain_is_the_contracts(registry, train, taste):
    version = train()
    answer = registry.retrain_answer(version, job_id=5)
    described = registry.version(version)
    pattern = r"Model retrained in \d+\.\ds - (\d+) samples, (\d+\.\d\d%) variance explained"
    samples, variance = re.fullmatch(pattern, answer["message"]).groups()
    assert (int(samples), variance) == (len(taste), described["explained_variance"])
    details = answer["details"]
    assert list(details) == ["training_samples", "n_users", "n_items", "explained_variance"]
    assert (details["training_samples"], details["n_users"], details["n_items"]) == (
        len(taste), 12, 9,
    )  # fmt: skip
    assert f"{details['explained_variance']:.2%}" == variance
    assert (answer["status"], answer["version"], answer["job_id"]) == ("ok", version, 5)


def test_exactly_one_version_is_active(registry, train, activate, settings):
    for _ in range(3):
        train()
    for version in (1, 3, 2, 2):
        activate(version)
        assert registry.active_version() == version
        assert {row["version"]: row["status"] for row in registry.versions()} == {
            number: "active" if number == version else "inactive" for number in (3, 2, 1)
        }
        assert artifact.linked_version(settings.model_dir) == version
    inactive = registry.version(1)["path"]
    assert inactive == str(settings.model_dir / "model-000001.pkl")


def test_activations_are_in_the_trail(registry, train, database):
    train()
    train()
    registry.activate(registry.load(1), actor="ann", reason="first")
    registry.activate(registry.load(2), actor="ben")
    first, second = trail(database, action="activate")
    assert (first["actor"], first["subject"]) == ("ann", "model 1")
    assert first["details"] == {"before": None, "after": 1, "reason": "first"}
    assert second["details"] == {"before": 1, "after": 2, "reason": None}


def test_what_is_written_along_is_part_of_the_activation(registry, train):
    model = registry.load(train())

    def also(connection):
        raise ConflictError("No.")

    with pytest.raises(ConflictError):
        registry.activate(model, actor="test", also=also)
    assert registry.active_version() is None


def test_an_active_version_cannot_be_deleted(registry, train, activate, settings):
    activate(train())
    with pytest.raises(ConflictError, match=r"Version 1 is active .* activate another first"):
        registry.delete(1, actor="test")
    assert "model-000001.pkl" in files(settings)


def test_deleting_takes_row_and_files(registry, train, activate, settings, database):
    activate(train())
    train()
    model = registry.load(2)
    registry.delete(2, actor="ann", reason="worse")
    assert [row["version"] for row in registry.versions()] == [1]
    assert "model-000002" not in " ".join(files(settings))
    (entry,) = trail(database, action="delete")
    assert (entry["actor"], entry["details"]) == ("ann", {"reason": "worse"})
    for act in (
        lambda: registry.delete(2, actor="test"),
        lambda: registry.load(2),
        lambda: registry.version(2),
        lambda: registry.retrain_answer(2, job_id=1),
        lambda: registry.activate(model, actor="test"),
    ):
        with pytest.raises(NotFoundError, match="There is no version 2"):
            act()
    assert registry.active_version() == 1


def test_numbers_never_come_again(registry, train, settings):
    assert [train(), train()] == [1, 2]
    registry.delete(2, actor="test")
    assert train() == 3
    (settings.model_dir / "model-000007.pkl").write_text("somebody's")
    (settings.model_dir / "notes-000099.txt").write_text("somebody's")
    assert registry.next_version() == 8
    assert train() == 8
    assert (settings.model_dir / "model-000007.pkl").read_text() == "somebody's"


def test_the_oldest_inactive_versions_go(registry, train, activate, settings):
    for _ in range(6):
        train()
    activate(2)
    assert registry.retain(n_versions=6, actor="test") == []
    assert registry.retain(n_versions=3, actor="test") == [4, 3, 1]
    assert [row["version"] for row in registry.versions()] == [6, 5, 2]
    assert registry.retain(n_versions=3, actor="test") == []
    assert registry.active_version() == 2


def test_demo_versions_are_deleted_an_active_one_too(registry, train, activate, settings, database):
    with database.write() as connection:
        import_id = storage.imports.begin(connection, source="x", fingerprint="f", is_demo=True)
    activate(train())
    with database.write() as connection:
        storage.imports.set_status(connection, import_id, storage.imports.UNDONE)
    train()
    assert [row["is_demo"] for row in registry.versions()] == [False, True]
    assert registry.delete_demo(actor="cli") == [1]
    assert registry.active_version() is None
    assert files(settings) == ["model-000002.pkl", "model-000002.safetensors"]
    assert registry.delete_demo(actor="cli") == []
    assert train() == 3


def test_loading_verifies_the_file(registry, train, settings):
    train()
    path = settings.model_dir / "model-000001.safetensors"
    loaded = registry.load(1)
    assert loaded.version == loaded.artifact.metadata.version == 1
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="its content changed"):
        registry.load(1)
    path.unlink()
    with pytest.raises(ArtifactError, match="is missing"):
        registry.load(1)


def test_the_newest_sound_version(registry, train, settings):
    assert registry.newest_sound() is None
    for _ in range(3):
        train()
    assert registry.newest_sound() == 3
    assert registry.newest_sound(besides=3) == 2
    (settings.model_dir / "model-000003.safetensors").write_bytes(b"damaged")
    (settings.model_dir / "model-000002.safetensors").unlink()
    assert registry.newest_sound() == 1
    assert registry.newest_sound(besides=1) is None


def test_the_link_is_repaired(registry, train, activate, settings):
    activate(train())
    train()
    link = settings.model_dir / "retrained_svd_model.pkl"
    link.unlink()
    registry.repair_link()
    assert os.readlink(link) == "model-000001.pkl"
    artifact.point_link(settings.model_dir, 2)
    registry.repair_link()
    assert os.readlink(link) == "model-000001.pkl"


def test_a_link_that_cannot_be_written_does_not_stop_an_activation(registry, train, settings):
    version = train()
    (settings.model_dir / "retrained_svd_model.pkl").mkdir()
    registry.activate(registry.load(version), actor="test")
    assert registry.active_version() == version


# A lost database


@pytest.fixture
def lost(settings, tmp_path):
    """Return a registry of an empty database beside the same model folder."""
    other = Settings.from_env({**settings.to_env(), "RECKEEPER_DATA_DIR": str(tmp_path / "new")})
    storage.migrate(other)
    database = storage.open_database(other)
    yield Registry(database, settings.model_dir)
    database.close()


def test_versions_come_back_from_the_folder(registry, train, activate, lost, settings):
    for _ in range(3):
        train()
    activate(2)
    before = {row["version"]: row for row in registry.versions()}
    assert lost.rebuild() == [1, 2, 3]
    after = {row["version"]: row for row in lost.versions()}
    assert lost.active_version() == 2
    for version in (1, 2, 3):
        # The jobs that made them were in the lost database.
        assert after[version] == {**before[version], "job_id": None}
        loaded = lost.load(version)
        assert loaded.watermark == 0
        assert loaded.artifact.metadata == registry.load(version).artifact.metadata
    assert lost.next_version() == 4
    assert lost.rebuild() == []


def test_without_a_link_the_newest_sound_version_serves(train, lost, settings):
    for _ in range(3):
        train()
    (settings.model_dir / "model-000003.safetensors").write_bytes(b"damaged")
    assert lost.rebuild() == [1, 2]
    assert lost.active_version() == 2
    assert artifact.linked_version(settings.model_dir) == 2


def test_files_that_are_not_sound_stay_where_they_are(train, activate, lost, settings):
    train()
    train()
    activate(2)
    damaged = settings.model_dir / "model-000002.safetensors"
    damaged.write_bytes(b"damaged")
    shutil.copy(
        settings.model_dir / "model-000001.safetensors",
        settings.model_dir / "model-000005.safetensors",
    )
    assert lost.rebuild() == [1]
    assert lost.active_version() == 1
    assert damaged.read_bytes() == b"damaged"
    assert (settings.model_dir / "model-000005.safetensors").exists()
    assert lost.next_version() == 6


def test_a_version_whose_pickle_is_gone_comes_back(train, lost, settings):
    train()
    (settings.model_dir / "model-000001.pkl").unlink()
    assert lost.rebuild() == [1]
    lost.load(1)


def test_a_database_that_had_a_version_is_not_rebuilt(registry, train, settings):
    train()
    registry.delete(1, actor="test")
    made = registry.load(train())
    metadata = dataclasses.replace(made.artifact.metadata, version=9)
    artifact.write(
        dataclasses.replace(made.artifact, metadata=metadata), settings.model_dir, cell_limit=0
    )
    assert registry.rebuild() == []
    assert [row["version"] for row in registry.versions()] == [2]


def test_nothing_is_rebuilt_from_nothing(lost, settings):
    assert lost.rebuild() == []
    settings.model_dir.mkdir()
    (settings.model_dir / "notes.txt").write_text("somebody's")
    assert lost.rebuild() == []
    assert lost.active_version() is None


def test_a_rebuild_is_in_the_trail(train, activate, lost):
    activate(train())
    lost.rebuild()
    (entry,) = trail(lost._database, action="rebuild")
    assert entry["details"]["versions"] == [1]
    assert entry["details"]["after"] == 1


def test_files_that_the_database_does_not_know_are_set_aside(registry, train, activate, settings):
    activate(train())
    train()
    train()
    registry.delete(2, actor="test")
    for name in ("model-000002.pkl", "model-000007.safetensors"):
        (settings.model_dir / name).write_bytes(b"left behind")
    assert registry.set_aside_unknown() == [7]
    assert registry.set_aside_unknown() == []
    assert sorted(files(settings)) == [
        "model-000001.pkl",
        "model-000001.safetensors",
        "model-000003.pkl",
        "model-000003.safetensors",
        "retrained_svd_model.pkl",
        "unknown",
    ]
    (aside,) = (settings.model_dir / "unknown").iterdir()
    assert aside.name.endswith("model-000007.safetensors")
    assert aside.read_bytes() == b"left behind"


def test_nothing_is_set_aside_while_a_job_runs(registry, database, settings):
    settings.model_dir.mkdir()
    (settings.model_dir / "model-000001.safetensors").write_bytes(b"not registered yet")
    with database.write() as connection:
        storage.jobs.insert(connection, trigger="manual")
    assert registry.set_aside_unknown() == []
    assert files(settings) == ["model-000001.safetensors"]


def test_the_link_follows_an_activation_that_comes_between(
    registry, train, activate, settings, database, monkeypatch
):
    activate(train())
    train()
    point_link = artifact.point_link

    def slow(folder, version):
        if version == 1:
            with database.write() as connection:
                storage.models.set_active(connection, 2)
        point_link(folder, version)

    monkeypatch.setattr(artifact, "point_link", slow)
    registry.repair_link()
    assert artifact.linked_version(settings.model_dir) == 2
