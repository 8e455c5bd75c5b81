"""API keys on both kinds of database: made, told once, refused, noted."""

import contextlib
import mmap
import re
import stat

import pytest
import structlog
from tests.system.installation import wait_until

from reckeeper import audit, clock, security, storage
from reckeeper.errors import (
    ConfigError,
    ConflictError,
    DataError,
    ForbiddenError,
    NotFoundError,
    RateLimitError,
    UnauthenticatedError,
)
from reckeeper.security import keys
from reckeeper.security.limits import SHARED_BYTES, Limits, SharedLimits

FAR = 4_000_000_000 * clock.SECOND


@pytest.fixture
def access(database, settings):
    return security.Access(database, settings)


@pytest.fixture
def make(database, access):
    """Return a function that makes a key, and gives what is sent with it."""

    def made(name="alice", role="admin", **more):
        text = keys.create(database, name, role, actor="test", **more).text
        access.refresh()
        return f"Bearer {text}"

    return made


def admit(access, sent, row=("GET", "/models"), address="192.0.2.1"):
    return access.admit(*row, sent, address=address)


def is_refused(access, sent):
    try:
        admit(access, sent, address=str(clock.now()))
    except UnauthenticatedError:
        return True
    return False


def test_of_a_key_the_database_has_a_hash_and_nothing_that_opens_anything(
    database, past_reckeeper, make
):
    sent = make()
    secret = sent[-64:]
    with past_reckeeper.connect() as connection:
        kept = repr(connection.exec_driver_sql("SELECT * FROM api_keys").all())
        kept += repr(connection.exec_driver_sql("SELECT * FROM audit_log").all())
    assert secret not in kept
    assert sent.removeprefix("Bearer ")[3:15] in kept  # its id
    assert re.fullmatch("Bearer rk_[0-9a-f]{12}_[0-9a-f]{64}", sent)
    new = keys.create(database, "other", "viewer", actor="test")
    assert new.text not in repr(new)


def test_without_a_key_everything_is_open_here_and_with_one_it_is_not(database, access, make):
    assert not access.is_needed
    assert admit(access, None).roles == set(security.roles.ROLES)
    sent = make()
    assert access.is_needed
    with pytest.raises(UnauthenticatedError):
        admit(access, None)
    caller = admit(access, sent)
    assert (caller.actor, caller.role) == ("key:alice", "admin")
    for written in (sent.replace("Bearer", "bearer"), sent.replace(" ", "   ")):
        assert admit(access, written) == caller
    keys.revoke(database, "alice", actor="test")
    access.refresh()
    assert not access.is_needed


def test_a_key_that_has_expired_opens_nothing_and_keeps_closed(access, make):
    sent = make(expires_at=clock.now() + clock.SECOND // 2)
    wait_until(lambda: is_refused(access, sent), "the key expires")
    with pytest.raises(UnauthenticatedError, match="'alice' has expired"):
        admit(access, sent)
    with pytest.raises(UnauthenticatedError, match="needed"):
        admit(access, None)
    other = sent[:-1] + ("0" if sent[-1] != "0" else "1")
    with pytest.raises(UnauthenticatedError, match="not valid"):  # who has no key is told no name
        admit(access, other)


def test_other_processes_notice(database, settings, access, make):
    sent = make()
    make("second")
    other = security.Access(database, settings)
    other.start()
    try:
        assert admit(other, sent)
        keys.revoke(database, "alice", actor="test")
        wait_until(lambda: is_refused(other, sent), "the other process looks")
        assert admit(access, sent)  # has not looked
        new = f"Bearer {keys.create(database, 'third', 'viewer', actor='test').text}"
        wait_until(lambda: not is_refused(other, new), "the other process looks")
    finally:
        other.stop()


def test_the_last_use_is_noted_when_the_process_ends_and_never_goes_back(database, settings, make):
    make()
    sent = make("second")
    access = security.Access(database, settings)
    admit(access, sent)
    before = clock.now()
    access.stop()
    second, first = keys.every(database)
    assert first.last_used_at is None
    assert before - 60 * clock.SECOND < second.last_used_at <= before
    with database.write() as connection:
        storage.api_keys.note_used(connection, {second.key_id: 5, first.key_id: 7})
    noted = {key.name: key.last_used_at for key in keys.every(database)}
    assert noted == {"alice": 7, "second": second.last_used_at}


def test_a_name_is_one_keys_until_that_is_revoked(database):
    first = keys.create(database, "shop", "ingest", actor="test").stored
    with pytest.raises(ConflictError, match="'shop' already"):
        keys.create(database, "shop", "viewer", actor="test")
    revoked = keys.revoke(database, "shop", actor="cli", reason="gone")
    assert (revoked.key_id, revoked.revoked_by) == (first.key_id, "cli")
    second = keys.create(database, "shop", "ingest", actor="test").stored
    assert keys.revoke(database, first.key_id, actor="other") == revoked  # stays as it was
    assert keys.revoke(database, second.key_id, actor="test").key_id == second.key_id
    with pytest.raises(NotFoundError, match="no key 'shop'"):
        keys.revoke(database, "shop", actor="test")


@pytest.mark.parametrize(
    ("field", "given"),
    [
        *(("name", name) for name in ("", "a b", "a:b", "x" * 65, "Zoë")),
        *(("role", role) for role in ("root", "", "Admin")),
        *(("rate_limit", limit) for limit in (0, -1, 10**7)),
        ("expires_at", 1),
    ],
)
def test_what_no_key_can_have_is_refused(database, field, given):
    asked = {"name": "alice", "role": "viewer"} | {field: given}
    with pytest.raises(DataError) as caught:
        keys.create(database, actor="test", **asked)
    assert caught.value.details == {"field": field}
    assert keys.every(database) == []


def test_the_trail_has_the_keys_name_and_beside_it_what_the_caller_says(database):
    caller = security.Caller(actor="key:alice", said="page")
    keys.create(database, "shop", "ingest", actor=security.actor_of(caller), rate_limit=60)
    keys.revoke(database, "shop", actor="cli", way="on the machine")
    revoked, made = audit.entries(database, limit=10)
    assert (made.actor, made.action, made.subject) == ("key:alice", "create_key", "key shop")
    assert made.details["said"] == "page"
    assert (made.details["role"], made.details["rate_limit"]) == ("ingest", 60)
    assert (revoked.actor, revoked.details["way"]) == ("cli", "on the machine")
    assert keys.every(database)[0].created_by == "key:alice"


def test_an_address_with_keys_that_are_not_valid_is_told_to_wait_and_others_are_not(access, make):
    sent = make()
    with structlog.testing.capture_logs() as logged:
        for _ in range(security.access.FAILURES_PER_MINUTE):
            with pytest.raises(UnauthenticatedError):
                admit(access, "Bearer rk_nothing")
        with pytest.raises(RateLimitError) as caught:
            admit(access, "Bearer rk_nothing")
    assert caught.value.details == {"retry_seconds": 6}
    with pytest.raises(UnauthenticatedError):
        admit(access, "Bearer rk_nothing", address="192.0.2.2")
    assert admit(access, sent).actor == "key:alice"  # behind the same address
    assert len(logged) == security.access.FAILURES_PER_MINUTE
    assert not any("nothing" in str(line) for line in logged)


def test_a_key_may_ask_so_often_and_not_more(access, make):
    sent, other = make(role="viewer", rate_limit=3), make("bob", "viewer")
    for _ in range(3):
        admit(access, sent)
    with pytest.raises(RateLimitError, match="may ask 3 times a minute") as caught:
        admit(access, sent)
    assert 1 <= caught.value.details["retry_seconds"] <= 20
    for _ in range(5):
        admit(access, other)


@pytest.mark.parametrize("is_shared", [False, True])
def test_a_limit_is_for_a_minute(is_shared):
    now = 0.0
    memory = mmap.mmap(-1, SHARED_BYTES)
    limits = SharedLimits(memory, clock=lambda: now) if is_shared else Limits(clock=lambda: now)
    assert [limits.take("a", per_minute=2) for _ in range(3)] == [0, 0, 30]
    now = 29.0
    assert limits.take("a", per_minute=2) == 1
    now = 30.0
    assert [limits.take("a", per_minute=2) for _ in range(2)] == [0, 30]
    assert [limits.take("b", per_minute=60) for _ in range(3)] == [0, 0, 0]
    now = 1000.0
    assert [limits.take("a", per_minute=2) for _ in range(3)] == [0, 0, 30]
    if is_shared:  # another process
        others = SharedLimits(memory, clock=lambda: now)
        assert others.take("a", per_minute=2) == 30
    for number in range(20_000):
        assert limits.take(f"other {number}", per_minute=2) == 0
    assert limits.take("a", per_minute=2) in ({0, 30} if is_shared else {0})  # may be forgotten


# Where others reach the processes


def elsewhere(settings, **changes):
    return settings.replaced(host="0.0.0.0", **changes)


def test_others_are_let_in_with_keys_or_by_somebody_in_front(database, settings):
    for local in ("127.0.0.1", "localhost", "::1", "127.8.8.8"):
        security.see_that_guarded(database, settings.replaced(host=local))
    for host in ("0.0.0.0", "::", "192.0.2.1", "server", ""):
        with pytest.raises(ConfigError, match="there is no API key") as caught:
            security.see_that_guarded(database, settings.replaced(host=host))
        assert caught.value.action.name == "create_admin_key"
    security.see_that_guarded(database, elsewhere(settings, is_open=True))
    keys.create(database, "alice", "admin", actor="test")
    security.see_that_guarded(database, elsewhere(settings))


def test_a_guarded_address_stays_closed_when_its_last_key_goes(database, settings):
    access = security.Access(database, elsewhere(settings))
    assert is_refused(access, None)
    opened = security.Access(database, elsewhere(settings, is_open=True))
    assert not is_refused(opened, None)
    keys.create(database, "alice", "admin", actor="test")
    opened.refresh()
    assert is_refused(opened, None)


def test_a_worker_that_others_reach_takes_its_servers_secret_alone(database, settings):
    text = keys.create(database, "alice", "admin", actor="test").text
    worker = security.Access(database, elsewhere(settings), is_worker=True)
    sent, retrain = f"Bearer {text}", ("POST", "/retrain")
    with pytest.raises(UnauthenticatedError, match="of its server alone"):
        admit(worker, sent, retrain)
    assert admit(worker, sent, ("GET", "/metrics")).actor == "key:alice"  # Prometheus reads it
    secret = security.Access(database, elsewhere(settings)).worker_secret.text()
    assert admit(worker, f"Bearer {secret}", retrain).is_server
    with pytest.raises(UnauthenticatedError):
        admit(worker, f"Bearer {secret[:-1]}", retrain)
    server = security.Access(database, elsewhere(settings))
    with pytest.raises(UnauthenticatedError):  # it is the worker's alone
        admit(server, f"Bearer {secret}", retrain)
    file = settings.data_dir / "worker.secret"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_the_secret_may_be_set_where_no_folder_is_shared(database, settings):
    settings = elsewhere(settings, worker_secret="sixteen characters")
    worker = security.Access(database, settings, is_worker=True)
    assert admit(worker, "Bearer sixteen characters", ("POST", "/retrain")).is_server
    assert not (settings.data_dir / "worker.secret").exists()


def test_a_worker_here_takes_keys_by_their_roles(database, settings):
    sent = f"Bearer {keys.create(database, 'alice', 'viewer', actor='test').text}"
    worker = security.Access(database, settings, is_worker=True)
    assert admit(worker, sent).role == "viewer"
    with pytest.raises(ForbiddenError):
        admit(worker, sent, ("POST", "/retrain"))


def test_while_the_keys_cannot_be_read_those_read_last_count(database, settings, past_reckeeper):
    sent = f"Bearer {keys.create(database, 'alice', 'admin', actor='test').text}"
    access = security.Access(database, settings)
    access.start()
    try:
        with past_reckeeper.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE api_keys RENAME TO elsewhere")
        wait_until(lambda: access.problem, "the keys cannot be read")
        assert admit(access, sent)
        assert is_refused(access, None)
    finally:
        with contextlib.suppress(Exception), past_reckeeper.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE elsewhere RENAME TO api_keys")
        access.stop()
