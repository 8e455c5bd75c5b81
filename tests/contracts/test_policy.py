"""The policy: what is refused, what rules, and that its secret stays one."""

import json
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reckeeper import audit, clock, policy, storage, wire
from reckeeper.config import Settings
from reckeeper.errors import ConfigError, ConflictError, DataError, StorageError
from reckeeper.interactions import WITHOUT_WEIGHT
from reckeeper.policy import Policy, PolicyWatch, Promotion, revisions

SECRET = "a secret of the receiver"
WHOLE = {
    "schedule": "0 3 * * 0",
    "timezone": "Europe/Berlin",
    "every_interactions": 10_000,
    "max_age_hours": 24.5,
    "min_minutes_between": 30,
    "skip_unchanged": False,
    "promotion": {"manual": "gate", "schedule": "manual", "rule": "always"},
    "tuning": {"drift": "mild"},
    "metric": "recall@10",
    "margin": 0.1,
    "min_users": 50,
    "min_new_interactions": 500,
    "min_coverage_share": 0.25,
    "max_segment_loss": 0.2,
    "min_segment_users": 30,
    "max_fall": 0.75,
    "weights": {"click": 1, "buy": 5.5, "dislike": -1},
    "half_life_days": 90,
    "window_days": 365,
    "retention_days": 730,
    "left_out_users": ["test-*", "bot 7"],
    "max_interactions_per_user": 1000,
    "recommendations": {
        "seen_types": ["buy"],
        "popularity_half_life_days": 14,
        "new_items_share": 0.2,
        "new_items_days": 7,
        "daily_variation": 0.5,
    },
    "versions_kept": 5,
    "kept_days": 60,
    "backup_schedule": "30 2 * * *",
    "backup_folder": "/backups",
    "backup_keep": 14,
    "stale_after_hours": 48,
    "webhook_url": "https://example.org/hook?team=1",
    "webhook_secret": SECRET,
}


@pytest.fixture
def store(database, settings):
    """Return a function that stores a policy of the fields given."""

    def store(content=None, *, actor="test", **options):
        return policy.store(database, settings, content or {}, actor=actor, **options)

    return store


@pytest.fixture
def rules(database, settings):
    """Return a function that gives the policy that rules."""

    def rules(settings=settings):
        with database.read() as connection:
            return policy.current(connection, settings)

    return rules


@pytest.fixture
def trail(database):
    """Return a function that gives the details of the trail's entries, the oldest first."""

    def trail():
        entries = audit.entries(database, limit=100)
        return list(reversed(entries))

    return trail


def test_what_an_earlier_release_stored_has_the_defaults_of_later_fields(database, rules):
    with database.write() as connection:
        storage.policies.insert(connection, policy={"margin": 0.1}, actor="test", reason=None)
    assert rules().policy == Policy(margin=0.1)


def test_the_test_knows_every_field():
    assert set(WHOLE) == set(Policy.model_fields)
    assert Policy(**WHOLE) != Policy()


def test_the_environment_gives_the_first_policy(rules, settings):
    first = rules(
        settings.replaced(
            retrain_schedule="@daily",
            timezone="Asia/Tokyo",
            interaction_weights={"buy": 3.0},
            versions_kept=4,
        )
    )
    assert first.policy == Policy(
        schedule="@daily", timezone="Asia/Tokyo", weights={"buy": 3.0}, versions_kept=4
    )
    assert (first.revision, first.source, first.at) == (0, "environment", None)


def test_the_defaults_of_environment_and_policy_agree(rules):
    assert rules(Settings.from_env({})).policy == Policy()


def test_once_stored_the_policy_rules(rules, store, settings, database):
    stored = store(WHOLE, reason="we know better")
    assert stored == rules() == rules(settings.replaced(retrain_schedule="@hourly"))
    assert stored.policy == Policy(**WHOLE)
    assert (stored.revision, stored.source) == (1, "stored")
    assert (stored.actor, stored.reason) == ("test", "we know better")
    assert abs(stored.at - clock.now()) < 60e6
    again = store({"versions_kept": 3}, actor="other")
    assert (again.revision, again.policy) == (2, Policy(versions_kept=3))
    with database.read() as connection:
        assert [
            (row.revision, row.actor, row.policy.versions_kept)
            for row in policy.history(connection, limit=10)
        ] == [(2, "other", 3), (1, "test", 5)]
        (row,) = policy.history(connection, limit=1, before=2)
    assert {**dict(row), "status": "ok"} == dict(policy.describe(stored))


def test_what_is_left_out_is_as_the_environment_has_it(database, settings):
    changed = settings.replaced(
        retrain_schedule="@daily", timezone="Asia/Tokyo", interaction_weights={"buy": 3.0}
    )
    stored = policy.store(database, changed, {"versions_kept": 3}, actor="test").policy
    assert stored == Policy(
        schedule="@daily", timezone="Asia/Tokyo", weights={"buy": 3.0}, versions_kept=3
    )
    stored = policy.store(database, changed, {"schedule": None}, actor="test").policy
    assert (stored.schedule, stored.versions_kept) == (None, 10)


def test_of_promotion_a_part_may_be_given(store):
    assert store({"promotion": {"manual": "gate"}}).policy.promotion == Promotion(
        manual="gate", schedule="gate", rule="gate"
    )


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("schedule", "sundays", "'sundays' is not a cron expression: it has 1 field(s)."),
        ("schedule", "0 0 31 2 *", "it names no date that ever comes"),
        ("schedule", "", "it has 0 field(s)"),
        ("schedule", "* " * 200, "must have at most 256 characters"),
        ("schedule", 5, "5 must be a valid string"),
        ("timezone", "Mars/Olympus", "'Mars/Olympus' must be a time zone's name"),
        ("timezone", "../../etc/passwd", "must be a time zone's name"),
        ("timezone", "Europe", "must be a time zone's name"),
        ("timezone", "", "must be a time zone's name"),
        ("timezone", "a\x00b", "must be a time zone's name"),
        ("timezone", None, "must be a valid string"),
        ("every_interactions", 0, "0 must be greater than or equal to 1"),
        ("every_interactions", 1.5, "must be a valid integer"),
        ("every_interactions", "1000", "'1000' must be a valid integer"),
        ("every_interactions", True, "must be a valid integer"),
        ("every_interactions", 10**30, "must be less than or equal to"),
        ("max_age_hours", 0, "must be greater than 0"),
        ("max_age_hours", -1.0, "must be greater than 0"),
        ("max_age_hours", math.inf, "inf must be a finite number"),
        ("max_age_hours", 10**400, "must be a valid number"),
        ("min_minutes_between", -1, "must be greater than or equal to 0"),
        ("min_minutes_between", math.nan, "nan must be a finite number"),
        ("skip_unchanged", "yes", "must be a valid boolean"),
        ("promotion", None, "must be an object"),
        ("promotion.manual", "maybe", "must be 'gate', 'always' or 'manual'"),
        ("promotion.demo", "gate", "there is no such field; there are manual, schedule, rule"),
        ("metric", "accuracy", "'accuracy' must be 'ndcg@10', 'recall@10'"),
        ("margin", 1, "1 must be less than 1"),
        ("margin", -0.1, "must be greater than or equal to 0"),
        ("margin", "0.02", "'0.02' must be a valid number"),
        ("margin", math.nan, "nan must be a finite number"),
        ("min_users", 1, "must be greater than or equal to 2"),
        ("min_new_interactions", 0, "must be greater than or equal to 1"),
        ("min_coverage_share", 1.5, "must be less than or equal to 1"),
        ("max_fall", 0, "must be greater than 0"),
        ("weights", {}, "must have at least 1 item"),
        ("weights", [["click", 1]], "must be an object"),
        ("weights", {"Click": 1}, "names 'Click'"),
        ("weights", {"watchlist_remove": 1}, "takes back an addition and has no weight"),
        ("weights", {"dismiss": 0}, "takes away the weight of what came before and has no weight"),
        ("weights", {"dismiss_undo": 1}, "takes back a dismissal and has no weight"),
        ("weights.click", "1", "'1' must be a valid number"),
        ("weights.click", math.nan, "must be a finite number"),
        ("weights.click", 2e6, "must be less than or equal to 1000000"),
        ("weights.click", True, "must be a valid number"),
        ("half_life_days", 0, "must be greater than 0"),
        ("window_days", -7, "must be greater than 0"),
        ("left_out_users", "test-*", "must be a valid list"),
        ("left_out_users", ["a", "*"], "has '*', which would leave out everybody"),
        ("left_out_users", ["***"], "would leave out everybody"),
        ("left_out_users", ["a\nb"], "ids have no control characters"),
        ("left_out_users.0", "", "must have at least 1 character"),
        ("left_out_users.0", 7, "7 must be a valid string"),
        ("max_interactions_per_user", 0, "must be greater than or equal to 1"),
        ("recommendations.seen_types", "click", "must be a valid list"),
        ("recommendations", {"seen_types": ["buy"]}, "'buy', which weights does not name; there"),
        ("recommendations.popularity_half_life_days", 0, "must be greater than 0"),
        ("recommendations.new_items_share", 1.1, "must be less than or equal to 1"),
        ("recommendations.new_items_days", None, "must be a valid number"),
        ("recommendations.daily_variation", -0.1, "must be greater than or equal to 0"),
        ("recommendations.variation", 1, "there is no such field; there are seen_types"),
        ("versions_kept", 1, "must be greater than or equal to 2"),
        ("kept_days", 0, "must be greater than 0"),
        ("stale_after_hours", 0, "must be greater than 0"),
        ("webhook_url", "example.org/hook", "must look like https://host/path"),
        ("webhook_url", "ftp://example.org", "must look like https://host/path"),
        ("webhook_url", "http:///hook", "must look like https://host/path"),
        ("webhook_url", "http://two words/", "must look like https://host/path"),
        ("webhook_url", "http://host:99999/", "has a port that is not between 1 and 65535"),
        ("webhook_url", "http://host:many/", "is no URL"),
        ("webhook_url", "http://ho\nst/", "is no URL"),
        ("webhook_url", "https://me:pa55word@example.org/", "has a user or password in it"),
        ("webhook_url", "https://me@example.org/", "has a user or password in it"),
        ("webhook_secret", "pa55word", "must have at least 16 characters"),
        ("webhook_secret", "***", "none is stored that *** could keep"),
        ("webhook_secret", 5, "must be a valid string"),
        ("scheduel", "pa55word", "there is no such field; there are schedule, timezone,"),
        ("policy", "pa55word", "there is no such field"),
    ],
)
def test_a_bad_field_is_named_and_nothing_is_stored(store, rules, trail, field, value, says):
    name, dot, inner = field.partition(".")
    content = {"versions_kept": 3, name: value}
    if dot:
        content[name] = [value] if inner == "0" else {inner: value}
    with pytest.raises(DataError) as caught:
        store(content)
    assert caught.value.details == {"field": field}
    assert caught.value.message.startswith(f"{field}: ")
    assert says in caught.value.message
    assert "Nothing was stored" in caught.value.message
    assert "pa55word" not in caught.value.message + str(caught.value.__cause__)
    assert len(caught.value.message) < 800
    assert (rules().source, trail()) == ("environment", [])


@pytest.mark.parametrize("content", [[], "0 3 * * *", None, 5])
def test_what_is_no_object_is_refused(database, settings, content):
    with pytest.raises(DataError, match="policy: must be an object"):
        policy.store(database, settings, content, actor="test")


@pytest.mark.parametrize("field", WHOLE)
@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.text(st.characters()), inner, max_size=3)
        ),
        max_leaves=6,
    )
)
def test_whatever_is_sent_is_a_policy_or_refused_by_field(field, value):
    refusal = None
    try:
        found = revisions._checked({field: value}, kept_secret=None)
    except DataError as exc:
        refusal = exc
    if refusal is None:
        assert revisions._checked(json.loads(json.dumps(found)), kept_secret=None) == found
    else:
        assert refusal.details["field"].partition(".")[0] == field
        wire.error_body(refusal).model_dump_json().encode()


@given(
    name=st.text("aZ09_é-", max_size=4) | st.sampled_from([*WITHOUT_WEIGHT]),
    number=st.floats() | st.sampled_from([0.0, -1e6, 1e6, 1.1e6]),
)
def test_weights_are_what_the_environment_takes_too(name, number):
    def is_taken(function):
        try:
            return function()
        except (ConfigError, DataError):
            return None

    assert is_taken(
        lambda: revisions._checked({"weights": {name: number}}, kept_secret=None)["weights"]
    ) == is_taken(
        lambda: (
            Settings.from_env(
                {"RECKEEPER_INTERACTION_WEIGHTS": f"{name}={number!r}"}
            ).interaction_weights
        )
    )


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (
            {"retrain_schedule": "sundays"},
            "RECKEEPER_RETRAIN_SCHEDULE='sundays' is not a cron expression: it has 1 field(s). ",
        ),
        ({"retrain_schedule": "0 0 30 2 *"}, "it names no date that ever comes"),
        ({"timezone": "Mars"}, "RECKEEPER_TIMEZONE='Mars' must be a time zone's name"),
        ({"versions_kept": 10**15}, "RECKEEPER_VERSIONS_KEPT=1000000000000000 must be less"),
    ],
)
def test_an_environment_that_makes_no_policy_is_named(rules, settings, changed, says):
    broken = settings.replaced(**changed)
    for act in (policy.first, rules):
        with pytest.raises(ConfigError) as caught:
            act(broken)
        assert says in caught.value.message
        assert caught.value.message.endswith("Correct it or unset it.")


def test_a_policy_stored_for_another_revision_is_refused(store, rules):
    assert store({"margin": 0.1}, if_revision=0).revision == 1
    with pytest.raises(
        ConflictError, match="Revision 1 of the policy is in force, not 0"
    ) as caught:
        store({"margin": 0.3}, if_revision=0)
    assert caught.value.details == {"revision": 1}
    assert rules().policy.margin == 0.1
    assert store({"margin": 0.3}, if_revision=1).revision == 2


def test_the_same_policy_again_writes_nothing(store, trail):
    first = store(WHOLE)
    assert store(WHOLE, actor="other") == first
    assert len(trail()) == 1
    assert store({**WHOLE, "margin": 0.2}).revision == 2


def test_the_trail_tells_what_was_changed(store, trail):
    store({"margin": 0.1, "weights": {"click": 2}}, reason="trying")
    store({"margin": 0.1}, actor="page")
    first, second = trail()
    assert (first.action, first.subject, first.actor) == ("policy", "policy 1", "test")
    assert first.details == {
        "before": {"margin": 0.02, "weights": {"click": 1.0, "watchlist_add": 2.0}},
        "after": {"margin": 0.1, "weights": {"click": 2.0}},
        "reason": "trying",
    }
    assert (second.subject, second.actor) == ("policy 2", "page")
    assert list(second.details["before"]) == ["weights"]


def test_the_mask_keeps_the_secret(store, rules):
    store({"webhook_secret": SECRET})
    kept = store({"webhook_secret": "***", "margin": 0.1})
    assert (kept.policy.webhook_secret, kept.policy.margin) == (SECRET, 0.1)
    assert store({"margin": 0.1}).policy.webhook_secret is None
    with pytest.raises(DataError, match="webhook_secret: none is stored"):
        store({"webhook_secret": "***"})
    assert rules().revision == 3


def test_the_secret_is_shown_nowhere(store, trail, database):
    stored = store(WHOLE)
    changed = store({**WHOLE, "webhook_secret": SECRET[::-1]})
    described = policy.describe(stored)
    assert described.policy.webhook_secret == "***"
    with database.read() as connection:
        history = policy.history(connection, limit=10)
    answers = [described.model_dump_json(), *(row.model_dump_json() for row in history)]
    shown = [repr(stored), str(stored.policy), answers, trail(), repr(changed)]
    assert SECRET not in str(shown)
    assert SECRET[::-1] not in str(shown)
    assert trail()[1].details["after"] == {"webhook_secret": "***"}
    assert policy.describe(store()).policy.webhook_secret is None


def test_a_policy_is_described_as_the_api_shows_it(store, rules):
    first = policy.describe(rules())
    assert (first.revision, first.source, first.updated_at) == (0, "environment", None)
    stored = store(WHOLE, reason="why")
    described = policy.describe(stored)
    assert described.model_dump() == {
        "status": "ok",
        "policy": {**WHOLE, "webhook_secret": "***"},
        "revision": 1,
        "source": "stored",
        "updated_at": clock.rfc3339(stored.at),
        "actor": "test",
        "reason": "why",
    }
    assert store(described.policy.model_dump()).revision == 1  # what is shown may be sent back


def test_what_decides_on_the_data():
    assert Policy(**WHOLE).data() == {
        "weights": {"click": 1.0, "buy": 5.5, "dislike": -1.0},
        "half_life_days": 90.0,
        "window_days": 365.0,
        "left_out_users": ["test-*", "bot 7"],
        "max_interactions_per_user": 1000,
    }


def test_who_decides_on_a_version():
    found = [Policy(**WHOLE).promotion_for(who) for who in ("manual", "schedule", "rule", "demo")]
    assert found == ["gate", "manual", "always", "always"]
    found = [Policy().promotion_for(who) for who in ("manual", "schedule", "rule", "demo")]
    assert found == ["always", "gate", "gate", "always"]


def test_a_policy_of_a_later_release_is_told_and_can_be_replaced(database, rules, store):
    with database.write() as connection:
        storage.policies.insert(
            connection, policy={"margin": 0.1, "mood": 5}, actor="later", reason=None
        )
    with pytest.raises(StorageError, match=r"revision 1\) cannot be used: mood: there is no such"):
        rules()
    assert store({"margin": 0.2}).revision == 2
    assert rules().policy == Policy(margin=0.2)


def test_a_policy_of_an_earlier_release_has_defaults_for_what_is_new(database, rules):
    with database.write() as connection:
        storage.policies.insert(connection, policy={"margin": 0.1}, actor="old", reason=None)
    assert rules().policy == Policy(margin=0.1)


@pytest.fixture
def watch(database, settings):
    watch = PolicyWatch(database, settings.replaced(poll_seconds=0.01))
    watch.start()
    yield watch
    watch.stop()


def test_a_watch_sees_a_change(watch, store, wait_until):
    assert watch.current().revision == 0
    stored = store({"weights": {"buy": 2}})
    wait_until(lambda: watch.current() == stored)


def test_a_watch_keeps_what_it_read_while_nothing_can_be_read(watch, database, store, wait_until):
    stored = store({"weights": {"buy": 2}})
    wait_until(lambda: watch.current() == stored)
    with database.write() as connection:
        storage.policies.insert(connection, policy={"margni": 1}, actor="later", reason=None)
    wait_until(lambda: watch.problem is not None)
    assert "margni" in watch.problem
    assert watch.current() == stored
    again = store({"weights": {"buy": 3}})
    wait_until(lambda: watch.current() == again)
    wait_until(lambda: watch.problem is None)


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_watch_goes_on_past_a_row_that_is_no_json(watch, database, store, wait_until, settings):
    stored = store({"weights": {"buy": 2}})
    wait_until(lambda: watch.current() == stored)
    # PostgreSQL takes nothing but JSON in this column.
    text = "{" if settings.is_embedded else "[]"
    with database.write() as connection:
        connection.exec_driver_sql(f"UPDATE policies SET policy = '{text}'")
    wait_until(lambda: watch.problem is not None)
    assert re.search(r"policy.* cannot be (read|used)", watch.problem, re.IGNORECASE)
    with database.write() as connection:
        connection.exec_driver_sql("UPDATE policies SET policy = '{}'")
    wait_until(lambda: watch.problem is None)


def test_a_watch_that_could_read_nothing_yet_says_why(database, settings):
    with database.write() as connection:
        storage.policies.insert(connection, policy={"margni": 1}, actor="later", reason=None)
    watch = PolicyWatch(database, settings)
    watch.start()
    with pytest.raises(StorageError, match="margni"):
        watch.current()
    watch.stop()
