"""Versions and their life: the database decides, the files follow."""

import contextlib
import dataclasses
import functools
import itertools
import os
import re
import shutil

import pytest
from tests.unit.small_models import TRAINED, add_version

from reckeeper import audit, clock, storage, wire
from reckeeper.artifact import Artifact, ModelStore
from reckeeper.errors import ArtifactError, ConflictError, DataError, NotFoundError, PinnedError
from reckeeper.recipes.popularity import Popularity
from reckeeper.registry import Registry

pytestmark = pytest.mark.usefixtures("taste")

REJECTED = {"decision": "reject", "sentence": "Worse than popularity.", "reasons": ["It is."]}


@pytest.fixture
def activate(registry):
    def act(version):
        registry.switch.activate(registry.versions.load(version), actor="test")

    return act


def files(settings):
    """Return what is in the model folder, beside what the trail keeps there."""
    names = {path.name for path in settings.model_dir.iterdir()}
    return sorted(names - {"audit-head.json", ".audit-head.lock", "interactions.snapshot"})


def trail(database, *, action):
    entries = audit.entries(database, limit=100)
    return [entry for entry in reversed(entries) if entry.action == action]


def test_a_new_version_is_inactive(registry, train):
    assert registry.versions.all() == []
    assert registry.switch.active_version() is None
    version = train()
    assert version == 1
    assert registry.versions.describe(1).status == "inactive"
    assert registry.switch.active_version() is None


def test_a_version_is_described_as_the_contract_says(registry, train, activate, settings, taste):
    activate(train(trigger="schedule"))
    described = wire.Model.model_validate(*registry.versions.all())
    assert list(described.model_dump())[:8] == [
        "name", "path", "type", "status", "n_users", "n_items", "explained_variance", "trained_on"
    ]  # fmt: skip
    assert described.name == "Retrained SVD Model"
    assert described.path == str(settings.model_dir / "retrained_svd_model.pkl")
    assert described.type == "SVD"
    assert described.status == "active"
    assert (described.n_users, described.n_items) == (12, 9)
    assert re.fullmatch(r"\d{1,3}\.\d{2}%", described.explained_variance)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", described.trained_on)
    assert described.version == 1
    assert described.recipe == "svd"
    assert described.settings == {"n_components": 10, "weighting": "raw"}
    assert described.training_samples == len(taste)
    assert described.trigger == "schedule"
    assert described.job_id == 1
    assert described.is_demo is False
    assert 0 <= described.seconds < 60


def test_a_recipe_that_does_not_decompose_goes_by_its_name(registry, train, settings, lost):
    first = registry.versions.load(train()).artifact
    model = Popularity.fit(TRAINED, settings={})
    metadata = dataclasses.replace(
        first.metadata, version=2, recipe=model.name, settings=model.settings,
        explained_variance=model.explained_variance, n_items=3,
    )  # fmt: skip
    made = Artifact.of(metadata, TRAINED, model)
    registry.versions.register(
        metadata, registry.store.write(made, TRAINED, cell_limit=10**6), job_id=None
    )
    described = wire.ModelDetails.model_validate(registry.versions.describe(2))
    assert (described.type, described.recipe) == ("popularity", "popularity")
    assert described.name == "Retrained SVD Model"
    assert described.explained_variance == "0.00%"
    assert described.settings == {"half_life_days": None}
    answer = registry.versions.retrain_answer(2, job_id=5)
    assert answer.message.endswith(" samples, 0.00% variance explained")
    assert answer.details.explained_variance == 0.0
    assert lost.recovery.rebuild() == [1, 2]
    assert lost.versions.describe(2).type == "popularity"


def test_the_answer_to_a_retrain_is_the_contracts(registry, train, taste):
    version = train()
    answer = wire.RetrainAnswer.model_validate(registry.versions.retrain_answer(version, job_id=5))
    described = wire.ModelDetails.model_validate(registry.versions.describe(version))
    pattern = r"Model retrained in \d+\.\ds - (\d+) samples, (\d+\.\d\d%) variance explained"
    samples, variance = re.fullmatch(pattern, answer.message).groups()
    assert (int(samples), variance) == (len(taste), described.explained_variance)
    details = answer.details
    assert list(details.model_dump()) == [
        "training_samples",
        "n_users",
        "n_items",
        "explained_variance",
    ]
    assert (details.training_samples, details.n_users, details.n_items) == (
        len(taste), 12, 9,
    )  # fmt: skip
    assert f"{details.explained_variance:.2%}" == variance
    assert (answer.status, answer.version, answer.job_id) == ("ok", version, 5)


def test_exactly_one_version_is_active(registry, train, activate, settings):
    for _ in range(3):
        train()
    for version in (1, 3, 2, 2):
        activate(version)
        assert registry.switch.active_version() == version
        assert {row.version: row.status for row in registry.versions.all()} == {
            number: "active" if number == version else "inactive" for number in (3, 2, 1)
        }
        assert ModelStore(settings.model_dir).linked_version() == version
    inactive = registry.versions.describe(1).path
    assert inactive == str(settings.model_dir / "model-000001.pkl")


def test_activations_are_in_the_trail(registry, train, database):
    train()
    train()
    registry.switch.activate(registry.versions.load(1), actor="ann", reason="first")
    registry.switch.activate(registry.versions.load(2), actor="ben")
    first, second = trail(database, action="activate")
    assert (first.actor, first.subject) == ("ann", "model 1")
    assert first.details == {"before": None, "after": 1, "reason": "first"}
    assert second.details == {"before": 1, "after": 2, "reason": None}


def test_what_is_written_along_is_part_of_the_activation(registry, train):
    model = registry.versions.load(train())

    def also(connection):
        raise ConflictError("No.")

    with pytest.raises(ConflictError):
        registry.switch.activate(model, actor="test", also=also)
    assert registry.switch.active_version() is None


def test_an_active_version_cannot_be_deleted(registry, train, activate, settings):
    activate(train())
    with pytest.raises(ConflictError, match=r"Version 1 is active .* activate another first"):
        registry.versions.delete(1, actor="test")
    assert "model-000001.pkl" in files(settings)


def test_deleting_takes_row_and_files(registry, train, activate, settings, database):
    activate(train())
    train()
    model = registry.versions.load(2)
    with database.read() as connection:
        row = storage.models.get(connection, 2)
    told = ("recipe", "trained_at", "is_active", "note", "native_sha256")
    deleted = {name: getattr(row, name) for name in told}
    registry.versions.delete(2, actor="ann", reason="worse")
    assert [row.version for row in registry.versions.all()] == [1]
    assert "model-000002" not in " ".join(files(settings))
    (entry,) = trail(database, action="delete")
    assert (entry.actor, entry.details) == (
        "ann",
        {"before": deleted, "after": None, "reason": "worse"},
    )
    for act in (
        lambda: registry.versions.delete(2, actor="test"),
        lambda: registry.versions.load(2),
        lambda: registry.versions.describe(2),
        lambda: registry.versions.retrain_answer(2, job_id=1),
        lambda: registry.switch.activate(model, actor="test"),
    ):
        with pytest.raises(NotFoundError, match="There is no version 2"):
            act()
    assert registry.switch.active_version() == 1


def test_numbers_never_come_again(registry, train, settings):
    assert [train(), train()] == [1, 2]
    registry.versions.delete(2, actor="test")
    assert train() == 3
    (settings.model_dir / "model-000007.pkl").write_text("somebody's")
    (settings.model_dir / "notes-000099.txt").write_text("somebody's")
    assert registry.versions.reserve(job_id=None) == 8
    assert train() == 9
    assert (settings.model_dir / "model-000007.pkl").read_text() == "somebody's"


def test_the_oldest_inactive_versions_go(registry, train, activate, settings):
    for _ in range(6):
        train()
    activate(2)
    assert registry.versions.retain(n_versions=6, actor="test") == []
    assert registry.versions.retain(n_versions=3, actor="test") == [4, 3, 1]
    assert [row.version for row in registry.versions.all()] == [6, 5, 2]
    assert registry.versions.retain(n_versions=3, actor="test") == []
    assert registry.switch.active_version() == 2


def test_demo_versions_are_deleted_an_active_one_too(registry, train, activate, settings, database):
    with database.write() as connection:
        import_id = storage.imports.begin(connection, source="x", fingerprint="f", is_demo=True)
    activate(train())
    with database.write() as connection:
        storage.imports.set_status(connection, import_id, storage.imports.UNDONE)
    train()
    assert [row.is_demo for row in registry.versions.all()] == [False, True]
    assert registry.switch.delete_demo(actor="cli") == [1]
    assert registry.switch.active_version() is None
    assert files(settings) == ["model-000002.pkl", "model-000002.safetensors"]
    assert registry.switch.delete_demo(actor="cli") == []
    assert train() == 3


def test_loading_verifies_the_file(registry, train, settings):
    train()
    path = settings.model_dir / "model-000001.safetensors"
    loaded = registry.versions.load(1)
    assert loaded.version == loaded.artifact.metadata.version == 1
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="its content changed"):
        registry.versions.load(1)
    path.unlink()
    with pytest.raises(ArtifactError, match="is missing"):
        registry.versions.load(1)


def test_the_newest_sound_version(registry, train, settings):
    assert registry.versions.newest_sound() is None
    for _ in range(3):
        train()
    assert registry.versions.newest_sound().version == 3
    assert registry.versions.newest_sound(besides=3).version == 2
    (settings.model_dir / "model-000003.safetensors").write_bytes(b"damaged")
    (settings.model_dir / "model-000002.safetensors").unlink()
    assert registry.versions.newest_sound().version == 1
    assert registry.versions.newest_sound(besides=1) is None


def test_the_link_is_repaired(registry, train, activate, settings):
    activate(train())
    train()
    link = settings.model_dir / "retrained_svd_model.pkl"
    link.unlink()
    registry.switch.repair_link()
    assert os.readlink(link) == "model-000001.pkl"
    ModelStore(settings.model_dir).point_link(2)
    registry.switch.repair_link()
    assert os.readlink(link) == "model-000001.pkl"


def test_a_link_that_cannot_be_written_does_not_stop_an_activation(registry, train, settings):
    version = train()
    (settings.model_dir / "retrained_svd_model.pkl").mkdir()
    registry.switch.activate(registry.versions.load(version), actor="test")
    assert registry.switch.active_version() == version


# A lost database


@pytest.fixture
def lost(settings, fresh):
    """Return a registry of an empty database beside the same model folder."""
    with fresh() as other, contextlib.closing(storage.open_database(other)) as database:
        yield Registry(database, settings.model_dir)


def test_versions_come_back_from_the_folder(registry, train, activate, lost, settings):
    for _ in range(3):
        train()
    activate(2)

    def listed(place):
        rows = (wire.Model.model_validate(row) for row in place.versions.all())
        return {row.version: row.model_dump() for row in rows}

    before = listed(registry)
    assert lost.recovery.rebuild() == [1, 2, 3]
    after = listed(lost)
    assert lost.switch.active_version() == 2
    for version in (1, 2, 3):
        # The jobs that made them were in the lost database.
        assert after[version] == {**before[version], "job_id": None, "served": version == 2}
        loaded = lost.versions.load(version)
        assert loaded.watermark == 0
        assert loaded.artifact.metadata == registry.versions.load(version).artifact.metadata
    assert lost.versions.reserve(job_id=None) == 4
    assert lost.recovery.rebuild() == []


def test_without_a_link_the_newest_sound_version_serves(train, lost, settings):
    for _ in range(3):
        train()
    (settings.model_dir / "model-000003.safetensors").write_bytes(b"damaged")
    assert lost.recovery.rebuild() == [1, 2]
    assert lost.switch.active_version() == 2
    assert ModelStore(settings.model_dir).linked_version() == 2


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
    assert lost.recovery.rebuild() == [1]
    assert lost.switch.active_version() == 1
    assert damaged.read_bytes() == b"damaged"
    assert (settings.model_dir / "model-000005.safetensors").exists()
    assert lost.versions.reserve(job_id=None) == 6


def test_a_version_whose_pickle_is_gone_comes_back(train, lost, settings):
    train()
    (settings.model_dir / "model-000001.pkl").unlink()
    assert lost.recovery.rebuild() == [1]
    lost.versions.load(1)


def test_a_database_that_had_a_version_is_not_rebuilt(registry, train, settings):
    train()
    registry.versions.delete(1, actor="test")
    made = registry.versions.load(train())
    metadata = dataclasses.replace(made.artifact.metadata, version=9)
    registry.store.write(dataclasses.replace(made.artifact, metadata=metadata), None, cell_limit=0)
    assert registry.recovery.rebuild() == []
    assert [row.version for row in registry.versions.all()] == [2]


def test_nothing_is_rebuilt_from_nothing(lost, settings):
    assert lost.recovery.rebuild() == []
    settings.model_dir.mkdir()
    (settings.model_dir / "notes.txt").write_text("somebody's")
    assert lost.recovery.rebuild() == []
    assert lost.switch.active_version() is None


def test_a_rebuild_is_in_the_trail(train, activate, lost):
    activate(train())
    lost.recovery.rebuild()
    (entry,) = trail(lost.versions._database, action="rebuild")
    assert entry.details["versions"] == [1]
    assert entry.details["after"] == 1


def test_files_that_the_database_does_not_know_are_set_aside(registry, train, activate, settings):
    activate(train())
    train()
    train()
    registry.versions.delete(2, actor="test")
    for name in ("model-000002.pkl", "model-000007.safetensors"):
        (settings.model_dir / name).write_bytes(b"left behind")
    assert registry.recovery.set_aside_unknown() == [7]
    assert registry.recovery.set_aside_unknown() == []
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


def begun(registry, database, *, job_id):
    """Reserve a number and leave a file of it that was never registered."""
    version = registry.versions.reserve(job_id=job_id)
    path = registry.store.native(version)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"not registered yet")
    (path.parent / f".{path.name}.4711.tmp").write_bytes(b"half")
    return path.name


def test_what_a_running_job_writes_is_let_alone(registry, database, settings):
    with database.write() as connection:
        job_id = storage.jobs.insert(connection, trigger="manual")
    name = begun(registry, database, job_id=job_id)
    assert registry.recovery.set_aside_unknown() == []
    assert registry.recovery.remove_unfinished() == []
    assert files(settings) == [f".{name}.4711.tmp", name]
    assert registry.recovery.rebuild() == []
    with database.write() as connection:
        storage.jobs.end(connection, job_id, status=storage.jobs.CANCELLED)
    assert registry.recovery.set_aside_unknown() == []
    assert registry.recovery.remove_unfinished() == [1]
    assert files(settings) == []


def test_what_a_restored_database_takes_for_unfinished_is_set_aside(registry, database, settings):
    with database.write() as connection:
        job_id = storage.jobs.insert(connection, trigger="manual")
    name = begun(registry, database, job_id=job_id)
    with database.write() as connection:
        connection.exec_driver_sql("UPDATE training_jobs SET heartbeat_at = heartbeat_at - 2e7")
        storage.jobs.end(connection, job_id, status=storage.jobs.INTERRUPTED)
    assert registry.recovery.remove_unfinished() == []
    (aside,) = (settings.model_dir / "unknown").iterdir()
    assert aside.name.endswith(name)


def test_a_lost_policy_does_not_let_old_versions_go(registry, make, lost):
    for _ in range(12):
        make()
    assert len(lost.recovery.rebuild()) == 12
    assert lost.versions.retain(n_versions=2, actor="worker") == []
    for _ in range(3):
        lost.versions.reserve(job_id=None)
    assert lost.versions.retain(n_versions=2, actor="worker") == []


def test_what_an_import_writes_is_let_alone_for_an_hour(registry, database, settings, monkeypatch):
    name = begun(registry, database, job_id=None)
    assert registry.recovery.remove_unfinished() == []
    assert files(settings) == [f".{name}.4711.tmp", name]
    later = clock.now() + int(3601e6)
    monkeypatch.setattr(clock, "now", lambda: later)
    assert registry.recovery.remove_unfinished() == [1]
    assert files(settings) == []
    assert registry.versions.reserve(job_id=None) == 2


def test_leftovers_of_a_registered_version_go(registry, train, settings):
    train()
    (settings.model_dir / ".model-000001.safetensors.4711.tmp").write_text("linked, not unlinked")
    (settings.model_dir / ".retrained_svd_model.pkl.tmp").symlink_to("model-000001.pkl")
    (settings.model_dir / "notes.tmp").write_text("somebody's")
    assert registry.recovery.remove_unfinished() == []
    assert files(settings) == ["model-000001.pkl", "model-000001.safetensors", "notes.tmp"]
    registry.versions.load(1)


def test_the_link_follows_an_activation_that_comes_between(
    registry, train, activate, settings, database, monkeypatch
):
    activate(train())
    train()
    point_link = registry.store.point_link

    def slow(version):
        if version == 1:
            with database.write() as connection:
                storage.models.set_active(connection, 2)
        point_link(version)

    monkeypatch.setattr(registry.store, "point_link", slow)
    registry.switch.repair_link()
    assert ModelStore(settings.model_dir).linked_version() == 2


# What is known of a version


@pytest.fixture
def make(registry, settings):
    """Return a function that registers a small version that was never trained here."""
    return functools.partial(add_version, registry, settings)


def notices(database):
    with database.read() as connection:
        found = (storage.notices.get(connection, number) for number in itertools.count(1))
        return list(itertools.takewhile(lambda notice: notice is not None, found))


def written(database):
    """Return how much the trail, the timeline and the outbox hold."""
    with database.read() as connection:
        entries = audit.entries(database, limit=1000)
        served = storage.timeline.page(connection, limit=1000)
    return len(entries), len(served), len(notices(database))


def test_a_version_is_told_in_full_from_its_row(registry, make, settings):
    told = {
        "fingerprint": "f" * 32,
        "data": {"weights": {"click": 1.0}, "half_life_days": None},
        "cause": {"rule": "max_age", "age_hours": 25.0, "sentence": "It was old."},
        "metrics": {"ndcg@10": {"mean": 0.2, "low": 0.1, "high": 0.3}},
        "verdict": {**REJECTED, "outcome": "It does not serve."},
        "peak_memory_bytes": 10**9,
        "libraries": {"numpy": "2.4"},
        "decided": {"order": 0.5},
        "origin": {"version": 7, "timeline": []},
    }
    make(latest_at=1_764_891_735_123_456, watermark=12, actor="ann", **told)
    loaded = registry.versions.load(1).artifact.metadata
    assert loaded.actor == "ann"
    assert {name: getattr(loaded, name) for name in told} == told
    sizes = {path.name: path.stat().st_size for path in settings.model_dir.glob("model-*")}
    shutil.rmtree(settings.model_dir)  # no file is needed
    described = registry.versions.describe(1)
    assert {name: getattr(described, name) for name in told} == told
    shown = wire.ModelDetails.model_validate(described)
    assert shown.latest_at == "2025-12-04T23:42:15.123456Z"
    assert described.watermark == 12
    assert {file.name: file.bytes for file in shown.files} == sizes
    assert all(re.fullmatch("[0-9a-f]{64}", file.sha256) for file in shown.files)
    assert shown.timeline == []
    (listed,) = registry.versions.all()
    same = vars(listed).keys() - {"verdict", "served"}
    assert {name: getattr(described, name) for name in same} == {
        name: getattr(listed, name) for name in same
    }
    assert (described.verdict, described.served) == (told["verdict"], listed.served)
    assert listed.verdict == {
        "decision": "reject",
        "sentence": "Worse than popularity.",
        "outcome": "It does not serve.",
    }
    assert listed.metrics == told["metrics"]


def test_what_is_not_known_of_a_version_is_told_as_nothing(registry, make):
    make()
    listed = wire.Model.model_validate(*registry.versions.all())
    described = wire.ModelDetails.model_validate(registry.versions.describe(1))
    for row in (listed, described):
        assert (row.note, row.verdict, row.metrics) == (None, None, None)
        assert (row.pinned, row.pinned_until, row.served) == (False, None, False)
    nothing = ("latest_at", "actor", "cause", "origin")
    assert [getattr(described, name) for name in nothing] == [None] * len(nothing)
    assert (described.fingerprint, described.data, described.libraries) == (
        "",
        wire.TrainingData(),
        {},
    )


def test_who_asked_for_a_version_is_told(registry, make):
    make(actor="page")
    assert registry.versions.describe(1).actor == "page"


def test_the_answer_says_what_became_of_the_version(registry, make):
    version = make(verdict=REJECTED)
    answer = registry.versions.retrain_answer(version, job_id=5)
    assert (answer.promoted, answer.verdict) == (None, REJECTED)
    answer = registry.versions.retrain_answer(
        version, job_id=5, promoted=True, verdict={"decision": "x"}
    )
    assert (answer.promoted, answer.verdict) == (True, {"decision": "x"})


def test_what_a_registration_checks_comes_first(registry, make, database):
    def refuse(connection):
        assert storage.models.all_versions(connection) == []
        raise ConflictError("Another holds the lease.")

    with pytest.raises(ConflictError, match="lease"):
        make(also=refuse)
    assert registry.versions.all() == []
    assert make() == 2


# What serves


def test_a_roll_back_leads_to_what_served_before_and_further(registry, make, activate):
    with pytest.raises(ConflictError, match="nothing to roll back to: no version that was"):
        registry.switch.rollback_target()
    for _ in range(4):
        make()
    activate(1)
    with pytest.raises(ConflictError, match="nothing to roll back to"):
        registry.switch.rollback_target()
    for version in (2, 3, 2, 4):
        activate(version)
    led = []
    for _ in range(4):
        target = registry.versions.load(registry.switch.rollback_target())
        registry.switch.roll_back(target, actor="ann", reason="worse")
        led.append(registry.switch.active_version())
    assert led == [2, 3, 2, 1]
    with pytest.raises(ConflictError, match="nothing to roll back to"):
        registry.switch.rollback_target()
    activate(4)
    assert registry.switch.rollback_target() == 1


def test_a_roll_back_passes_what_is_deleted(registry, make, activate):
    for _ in range(3):
        activate(make())
    registry.versions.delete(2, actor="test")
    assert registry.switch.rollback_target() == 1
    activate(1)
    assert registry.switch.rollback_target() == 3


def test_a_roll_back_that_leads_elsewhere_by_now_is_refused(registry, make, activate):
    for _ in range(3):
        make()
    for version in (1, 2):
        activate(version)
    target = registry.versions.load(registry.switch.rollback_target())
    activate(3)
    with pytest.raises(ConflictError, match="leads to version 2 now, not to 1"):
        registry.switch.roll_back(target, actor="test")
    assert registry.switch.active_version() == 3


def test_the_timeline_tells_what_served_when_and_why(registry, make):
    for version in (make(), make()):
        registry.switch.activate(
            registry.versions.load(version), actor="ann", reason="first", job_id=None
        )
    registry.switch.roll_back(registry.versions.load(1), actor="ben", reason="worse")
    third, second, first = registry.switch.timeline(limit=10)
    assert [entry.version for entry in (first, second, third)] == [1, 2, 1]
    assert [entry.action for entry in (first, second, third)] == [
        "activate", "activate", "rollback",
    ]  # fmt: skip
    assert (third.actor, third.reason, third.job_id) == ("ben", "worse", None)
    assert (first.until, second.until, third.until) == (second.at, third.at, None)
    shown = wire.TimelineEntry.model_validate(first)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", shown.at)
    assert registry.switch.timeline(limit=1, before=third.entry_id) == [second]
    assert registry.switch.timeline(limit=9, before=first.entry_id) == []
    assert registry.versions.describe(1).timeline == (third, first)
    assert [row.served for row in registry.versions.all()] == [True, True]


def test_activating_what_serves_changes_nothing(registry, make, activate, database):
    activate(make())
    before = written(database)
    seen = []
    registry.switch.activate(registry.versions.load(1), actor="ann", also=seen.append)
    assert written(database) == before
    assert len(seen) == 1, "what is to be written along is"


def test_every_change_of_what_serves_is_told_to_the_webhook(registry, make, database):
    make()
    make(verdict=REJECTED)
    registry.switch.activate(registry.versions.load(1), actor="ann")
    registry.switch.activate(registry.versions.load(2), actor="ben", reason="I know better")
    registry.switch.roll_back(registry.versions.load(1), actor="ben")
    registry.switch.activate(registry.versions.load(2), actor="worker", action="promote", job_id=4)
    assert {notice.event for notice in notices(database)} == {"promoted"}
    told = [notice.payload for notice in notices(database)]
    assert [(row["version"], row["previous_version"], row["action"]) for row in told] == [
        (1, None, "activate"), (2, 1, "override"), (1, 2, "rollback"), (2, 1, "promote"),
    ]  # fmt: skip
    assert (told[1]["actor"], told[1]["reason"], told[3]["job_id"]) == ("ben", "I know better", 4)


def test_an_override_is_told_as_one_until_the_version_has_served(registry, make, database):
    make()
    make(verdict=REJECTED)
    for version in (2, 1, 2):
        registry.switch.activate(registry.versions.load(version), actor="ann", reason="so be it")
    (override,) = trail(database, action="override")
    assert override.details == {"before": None, "after": 2, "reason": "so be it"}
    assert len(trail(database, action="activate")) == 2


def test_promotions_and_roll_backs_are_in_the_trail(registry, make, database):
    for version in (make(), make()):
        registry.switch.activate(
            registry.versions.load(version), actor="worker", action="promote", job_id=version
        )
    registry.switch.roll_back(registry.versions.load(1), actor="ann", reason="worse")
    _, promotion = trail(database, action="promote")
    assert promotion.details == {"before": 1, "after": 2, "reason": None, "job_id": 2}
    (entry,) = trail(database, action="rollback")
    assert (entry.actor, entry.subject) == ("ann", "model 1")
    assert entry.details == {"before": 2, "after": 1, "reason": "worse"}


# Pins, notes, retention


def test_a_pin_stands_in_the_way_of_a_promotion_alone(registry, make, activate, database):
    for _ in range(3):
        make()
    activate(1)
    registry.versions.pin(1, actor="ann", reason="holidays")
    before = written(database)
    changed = []

    def also(connection):
        storage.models.set_note(connection, 2, "promoted")
        changed.append(True)

    with pytest.raises(PinnedError, match=r"Version 1 is active and pinned: version 2 does not"):
        registry.switch.activate(
            registry.versions.load(2), actor="worker", action="promote", job_id=1, also=also
        )
    assert changed
    assert registry.versions.describe(2).note is None
    assert (registry.switch.active_version(), written(database)) == (1, before)
    activate(2)  # whoever names the version means it
    registry.switch.activate(registry.versions.load(3), actor="worker", action="promote", job_id=1)
    assert registry.switch.active_version() == 3
    assert registry.versions.describe(1).pinned
    activate(1)
    registry.versions.unpin(1, actor="ann")
    registry.switch.activate(registry.versions.load(3), actor="worker", action="promote", job_id=1)
    assert registry.switch.active_version() == 3


def test_a_pin_ends_on_its_date(registry, make, activate, monkeypatch):
    activate(make())
    make()
    until = clock.now() + int(60e6)
    registry.versions.pin(1, actor="ann", until=until)
    assert registry.versions.describe(1).pinned_until == until
    with pytest.raises(PinnedError, match=f"pinned until {clock.rfc3339(until)}: "):
        registry.switch.activate(registry.versions.load(2), actor="worker", action="promote")
    monkeypatch.setattr(clock, "now", lambda: until)
    assert [row.pinned for row in registry.versions.all()] == [False, False]
    assert registry.versions.describe(1).pinned_until is None
    registry.switch.activate(registry.versions.load(2), actor="worker", action="promote")
    registry.versions.delete(1, actor="ann")


def test_a_pin_needs_a_version_and_a_date_to_come(registry, make, database):
    make()
    before = written(database)
    with pytest.raises(DataError, match=r"until: 1970-01-01T00:00:00.000005Z has passed"):
        registry.versions.pin(1, actor="ann", until=5)
    registry.versions.unpin(1, actor="ann")
    for act in (registry.versions.pin, registry.versions.unpin):
        with pytest.raises(NotFoundError):
            act(2, actor="ann")
    assert written(database) == before


def test_a_pinned_version_is_not_deleted(registry, make, settings):
    for _ in range(4):
        make()
    registry.versions.pin(1, actor="ann")
    with pytest.raises(ConflictError, match="Version 1 is pinned and cannot be deleted: unpin it"):
        registry.versions.delete(1, actor="ann")
    assert registry.versions.retain(n_versions=2, days=None, actor="worker") == [3, 2]
    registry.versions.load(1)


def test_pins_are_in_the_trail(registry, make, database):
    make()
    until = clock.now() + int(60e6)
    registry.versions.pin(1, actor="ann", until=until, reason="sale")
    registry.versions.pin(1, actor="ben")
    registry.versions.unpin(1, actor="ann", reason="over")
    first, second = trail(database, action="pin")
    dated = {"pinned": True, "until": clock.rfc3339(until)}
    assert first.details == {
        "before": {"pinned": False, "until": None}, "after": dated, "reason": "sale",
    }  # fmt: skip
    assert (second.details["before"], second.details["after"]["until"]) == (dated, None)
    (last,) = trail(database, action="unpin")
    assert (last.details["after"]["pinned"], last.details["reason"]) == (False, "over")


def test_a_note_is_kept_and_can_be_taken_away(registry, make, database):
    make()
    for text in ("before the sale 🎬", "another", "another", None):
        registry.versions.note(1, text, actor="ann")
        assert registry.versions.describe(1).note == registry.versions.all()[0].note == text
    changes = [entry.details for entry in trail(database, action="note")]
    assert [change["after"] for change in changes] == [
        "before the sale 🎬",
        "another",
        None,
    ]
    assert changes[1]["before"] == "before the sale 🎬"
    with pytest.raises(NotFoundError):
        registry.versions.note(2, "x", actor="ann")


@pytest.mark.parametrize("text", ["x" * 10_001, "nul \0", "half \ud83d"])
def test_a_note_that_cannot_be_kept_is_refused(registry, make, text):
    make()
    with pytest.raises(DataError, match=r"^note: ") as refused:
        registry.versions.note(1, text, actor="ann")
    assert refused.value.details == {"field": "note"}
    assert registry.versions.describe(1).note is None


def test_retention_keeps_the_way_back(registry, make, activate):
    for _ in range(5):
        make()
    activate(1)
    activate(2)
    assert registry.versions.retain(n_versions=1, days=None, actor="worker") == [5, 4, 3]
    assert [row.version for row in registry.versions.all()] == [2, 1]
    assert registry.switch.rollback_target() == 1


def test_versions_beyond_an_age_go(registry, make, activate, database, monkeypatch):
    day = int(86_400e6)
    ago = clock.now()
    monkeypatch.setattr(storage.models, "now", lambda: ago - 40 * day)
    for _ in range(3):
        make(trained_at=ago - 40 * day)
    monkeypatch.undo()
    make(trained_at=ago - 40 * day)  # trained elsewhere, and taken in just now
    make()
    activate(1)
    registry.versions.pin(2, actor="ann")
    assert registry.versions.retain(n_versions=10, days=41, actor="worker") == []
    assert registry.versions.retain(n_versions=10, days=30.5, actor="worker") == [3]
    (entry,) = trail(database, action="delete")
    assert entry.details["reason"] == "older than 30.5 days"
    assert [row.version for row in registry.versions.all()] == [5, 4, 2, 1]


def test_files_that_could_not_be_deleted_go_at_the_next_start(
    registry, make, settings, monkeypatch
):
    make()

    def refuse(version):
        raise OSError("read-only file system")

    monkeypatch.setattr(registry.store, "delete", refuse)
    registry.versions.delete(1, actor="ann")
    monkeypatch.undo()
    assert registry.versions.all() == []
    assert "model-000001.pkl" in files(settings)
    assert registry.recovery.set_aside_unknown() == []
    assert files(settings) == []


def test_without_demo_data_nothing_serves_and_the_way_back_is_there(registry, make, activate):
    activate(make())
    activate(make(is_demo=True))
    assert registry.switch.delete_demo(actor="cli") == [2]
    assert registry.switch.active_version() is None
    latest = registry.switch.timeline(limit=1)[0]
    assert (latest.version, latest.action, latest.until) == (None, "delete", None)
    assert registry.switch.rollback_target() == 1
    registry.switch.roll_back(registry.versions.load(1), actor="ann")
    assert registry.switch.active_version() == 1


def test_a_rebuild_begins_the_timeline(make, activate, lost):
    activate(make())
    lost.recovery.rebuild()
    (entry,) = lost.switch.timeline(limit=9)
    assert (entry.version, entry.action, entry.actor) == (1, "rebuild", "start")


def test_a_rebuild_leaves_alone_what_another_process_writes(make, lost):
    make()
    make()
    lost.versions.reserve(job_id=1)  # 3: the files that are there count
    with lost.versions._database.write() as connection:
        storage.models.reserve(connection, above=6, job_id=1)
    make()
    assert lost.recovery.rebuild() == [1, 2]
