"""Random lives of an installation's versions, held against a simple model of the registry.

A process can die at every step that it takes in the model folder and at every
commit: from there on nothing of it happens any more, no clean-up either. The
next start must find each change made whole or not at all.
"""

import contextlib
import dataclasses
import functools
import os
from unittest import mock

import hypothesis
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.unit.small_models import TRAINED, small_model

from reckeeper import artifact, storage
from reckeeper.artifact import ModelStore
from reckeeper.errors import ConflictError, NotFoundError, PinnedError
from reckeeper.registry import Registry

STEPS = ("link", "symlink", "unlink", "rename", "replace", "fsync", "chmod", "mkdir")
ENDED_JOB = 1


class Death(BaseException):
    """The process is gone."""


@contextlib.contextmanager
def dying(after):
    """Let the process die before its step number `after`, counted from 0; None: it lives."""
    left, os_fsync = [after], os.fsync

    def step():
        if left[0] is not None:
            left[0] -= 1
            if left[0] < 0:
                raise Death

    def dangerous(function):
        @functools.wraps(function)
        def stepped(*arguments, **options):
            step()
            # Nothing here cuts the power: syncs would cost most of the test's time.
            return None if function is os_fsync else function(*arguments, **options)

        return stepped

    whole = storage.Database.write

    @contextlib.contextmanager
    def write(self):
        with whole(self) as connection:
            yield connection
            step()  # dead before the commit
        step()  # dead right after it

    with contextlib.ExitStack() as patched:
        for name in STEPS:
            patched.enter_context(mock.patch.object(os, name, dangerous(getattr(os, name))))
        patched.enter_context(mock.patch.object(storage.Database, "write", write))
        yield


@dataclasses.dataclass
class Expected:
    """The model: versions that are there, those that are pinned, what served one after another."""

    versions: set = dataclasses.field(default_factory=set)
    pinned: set = dataclasses.field(default_factory=set)
    served: list = dataclasses.field(default_factory=list)

    @property
    def active(self):
        return self.served[-1] if self.served else None

    @property
    def target(self):
        """Return the place in `served` that a roll back leads to, or None."""
        for place in reversed(range(len(self.served))):
            if self.served[place] != self.active and self.served[place] in self.versions:
                return place
        return None

    def copy(self):
        return Expected(set(self.versions), set(self.pinned), list(self.served))

    def seen(self):
        target = self.target
        return (
            self.versions,
            self.pinned,
            self.active,
            None if target is None else self.served[target],
        )


class Life(RuleBasedStateMachine):
    versions = Bundle("versions")
    # Most changes take fewer steps than 20.
    deaths = st.none() | st.integers(0, 24)

    def __init__(self, fresh):
        super().__init__()
        self.left = contextlib.ExitStack()
        made = self.left.enter_context(fresh())
        self.settings = made.replaced(audit_key="0123456789abcdef")
        self.database = storage.open_database(self.settings)
        self.left.callback(self.database.close)
        self.registry = Registry(self.database, self.settings.model_dir)
        self.expected = Expected()
        self.largest = 0

    def teardown(self):
        self.left.close()

    # What happens

    @initialize(target=versions)
    def first_two(self):
        return multiple(*self._registered(None), *self._registered(None))

    @rule(target=versions, death=deaths)
    def register(self, death):
        return multiple(*self._registered(death))

    def _registered(self, death):
        made = []

        def act():
            made.append(self.registry.versions.reserve(job_id=ENDED_JOB))
            model = small_model(version=made[0])
            files = ModelStore(self.settings.model_dir).write(model, TRAINED, cell_limit=100)
            self.registry.versions.register(model.metadata, files, job_id=None)

        def then(expected):
            expected.versions |= set(made)

        self.attempt(act, then, death)
        if made:
            assert made[0] > self.largest, "a number came again"
            self.largest = made[0]
        return self.expected.versions & set(made)

    @rule(version=versions, death=deaths, action=st.sampled_from(["activate", "promote"]))
    def activate(self, version, death, action):
        if version not in self.expected.versions:
            with pytest.raises(NotFoundError):
                self.registry.versions.load(version)
            return

        def act():
            self.registry.switch.activate(
                self.registry.versions.load(version), actor="test", action=action
            )

        def then(expected):
            if version != expected.active:
                expected.served.append(version)

        stands = action == "promote" and self.expected.active in self.expected.pinned - {version}
        self.attempt(act, then, death, refused=PinnedError if stands else None)

    @rule(death=deaths)
    def roll_back(self, death):
        def act():
            model = self.registry.versions.load(self.registry.switch.rollback_target())
            self.registry.switch.roll_back(model, actor="test")

        def then(expected):
            del expected.served[expected.target + 1 :]

        self.attempt(act, then, death, refused=ConflictError if self.target is None else None)

    @rule(version=versions, death=deaths, is_pinned=st.booleans())
    def pin(self, version, death, is_pinned):
        if version not in self.expected.versions:
            return

        def act():
            (self.registry.versions.pin if is_pinned else self.registry.versions.unpin)(
                version, actor="test"
            )

        def then(expected):
            expected.pinned = expected.pinned - {version} | ({version} if is_pinned else set())

        self.attempt(act, then, death)

    @rule(version=versions, death=deaths)
    def delete(self, version, death):
        if version not in self.expected.versions:
            return

        def act():
            self.registry.versions.delete(version, actor="test")

        def then(expected):
            expected.versions -= {version}

        stands = version == self.expected.active or version in self.expected.pinned
        self.attempt(act, then, death, refused=ConflictError if stands else None)

    @rule(n_versions=st.integers(1, 4), death=deaths)
    def retain(self, n_versions, death):
        def act():
            self.registry.versions.retain(n_versions=n_versions, actor="test")

        def then(expected):
            inactive = sorted(expected.versions - {expected.active}, reverse=True)
            kept = {*inactive[: n_versions - 1], *expected.pinned, expected.active}
            if expected.target is not None:
                kept.add(expected.served[expected.target])
            expected.versions &= kept

        self.attempt(act, then, death)

    @precondition(lambda self: self.expected.active is not None)
    @rule()
    def lose_the_link(self):
        (self.settings.model_dir / artifact.ACTIVE_LINK).unlink()
        self.start()

    # How it is judged

    @property
    def target(self):
        return self.expected.target

    def attempt(self, act, then, death, *, refused=None):
        after = self.expected.copy()
        try:
            expects = pytest.raises(refused) if refused else contextlib.nullcontext()
            with dying(death), expects:
                act()
        except Death:
            self.start(death)
            if not refused:
                then(after)
            seen = self.seen()
            assert seen in (self.expected.seen(), after.seen())
            if seen == after.seen() and not refused:
                self.expected = after
            return
        if refused is None:
            then(after)
            self.expected = after

    def start(self, death=None):
        """Start again, as a worker does; a first try may die too."""
        self.registry = Registry(self.database, self.settings.model_dir)
        for last_step in (death, None):
            with contextlib.suppress(Death), dying(last_step):
                self.registry.recovery.rebuild()
                self.registry.switch.repair_link()
                self.registry.recovery.remove_unfinished()
                self.registry.recovery.set_aside_unknown()

    def seen(self):
        described = self.registry.versions.all()
        try:
            target = self.registry.switch.rollback_target()
        except ConflictError:
            target = None
        active = [row.version for row in described if row.status == "active"]
        assert len(active) <= 1
        return (
            {row.version for row in described},
            {row.version for row in described if row.pinned},
            active[0] if active else None,
            target,
        )

    @invariant()
    def the_registry_is_as_the_model(self):
        assert self.seen() == self.expected.seen()
        assert self.registry.switch.active_version() == self.expected.active
        served = [row.version for row in self.registry.versions.all() if row.served]
        assert set(self.expected.served) & self.expected.versions <= set(served)
        latest = self.registry.switch.timeline(limit=1)
        assert [entry.version for entry in latest] == self.expected.served[-1:]

    @invariant()
    def the_folder_follows(self):
        folder = self.settings.model_dir
        paths = folder.iterdir() if folder.is_dir() else ()
        names = {path.name for path in paths if "audit-head" not in path.name}
        expected = {
            name(version)
            for version in self.expected.versions
            for name in (artifact.native_name, artifact.pickle_name)
        }
        if self.expected.active is not None:
            expected.add(artifact.ACTIVE_LINK)
            assert ModelStore(folder).linked_version() == self.expected.active
        assert names == expected
        for version in self.expected.versions:
            assert self.registry.versions.load(version).version == version


@pytest.mark.hypothesis
def test_life(fresh):
    n_examples = hypothesis.settings().max_examples // 4
    run_state_machine_as_test(
        functools.partial(Life, fresh),
        settings=hypothesis.settings(max_examples=n_examples, stateful_step_count=25),
    )
