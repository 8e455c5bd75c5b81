"""Whatever is told to a parser: it gives a value, or refuses it by an error of ours that says why.

Files of imports have such tests in test_import_memory.py, test_forms.py and beside their readers,
messages in test_kafka_messages.py, bundles in test_bundle.py, the policy in test_policy.py.
"""

import io
import json
import tarfile
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reckeeper import storage, tabular
from reckeeper.artifact import format as native
from reckeeper.backup import archive
from reckeeper.backup import keys as sealed_keys
from reckeeper.catalogue import conditions
from reckeeper.cli import keys as key_options
from reckeeper.config import Settings
from reckeeper.errors import ReckeeperError
from reckeeper.events import message as messages
from reckeeper.events import time_patterns, times, weights, zones
from reckeeper.interactions import checked_id
from reckeeper.policy import cron
from reckeeper.security import keys
from reckeeper.serving import asked

TYPES = {"click": 1.0}
NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)


def texts(*words):
    """Give texts of any characters, and others that are put together of words of the parser's."""
    of_words = st.lists(st.sampled_from(words) | st.text(max_size=1), max_size=8).map("".join)
    return st.text(st.characters()) | of_words


def refused_well(parse, *told):
    """Say whether what is told is refused; any error but one of ours fails the test."""
    try:
        parse(*told)
    except ReckeeperError as exc:
        message = exc.message
    else:
        return False
    assert message.strip().endswith((".", ":")), message
    return True


def moment(text):
    form = times.TimeForm(zone=zones.zone_named("Europe/Berlin"))
    found = times.parse_time(text, form)
    assert found is None or isinstance(found, int)


def expression(text):
    try:
        cron.check(text)
    except ValueError:
        return
    for zone in ("UTC", "America/New_York"):
        assert cron.next_run(text, timezone=zone, after=NEW_YEAR) >= NEW_YEAR
    cron.last_run(text, timezone="UTC", after=NEW_YEAR, until=NEW_YEAR + timedelta(hours=1))


def by_format(text):
    form = times.TimeForm(pattern=time_patterns.of_format(text))
    assert times.parse_time("no time at all", form) is None


def engine(text):
    storage.engine.make_engine(Settings.from_env({"DATABASE_URL": text})).dispose()


def query(text):
    found = tabular.Query(text, "SELECT 1")
    assert found.masked_url
    assert found.name


def key(text):
    found = keys.parts(text)
    assert found is None or text.startswith("rk_")


URL_WORDS = (
    *("postgresql", "sqlite", "mysql", "://", ":", "/", "//", "@", "?", "&", "=", "%", "%00"),
    *("user", "pa55", "host", "[", "]", "::1", "5432", "99999", "x", "\0", "sslmode", "options"),
)
CLOCK_WORDS = (
    *("2026", "05", "13", "24", "60", "-", "/", ".", ":", "T", "Z", " ", "+", "00", "am", "Mar"),
    *("00:00", "Monday", "1e9", "99999999999999999999", "NaN", "inf"),
)
PARSERS = {
    "a time": (moment, texts(*CLOCK_WORDS)),
    "a format of times": (by_format, texts(*"YmdHMSfzpbBeIhyTRFDj(\\[", *["%"] * 20)),
    "a zone": (zones.zone_named, texts("Europe", "/", "Berlin", "..", "UTC", "\0", "posix", "~")),
    "weights": (weights.parse_weights, texts("view", "=", ",", "1", ".5", "nan", "1e999", "-")),
    "a schedule": (expression, texts(*"0123456789*/,-#LW@", " ", " ", "*", "MON", "@daily", "60")),
    "how long a key is valid": (
        key_options._expiry,
        texts(*"0123456789", "d", "h", "w", "99999", "2027-01-31", "T", ":00", "Z", "+23:59"),
    ),
    "an API key": (key, texts("rk_", "0" * 12, "_", "f" * 64, "\0")),
    "DATABASE_URL": (engine, texts(*URL_WORDS)),
    "the URL of an import": (query, texts(*URL_WORDS)),
}


@pytest.mark.parametrize("name", PARSERS)
@given(data=st.data())
def test_any_text_is_a_value_or_refused(name, data):
    parse, told = PARSERS[name]
    refused_well(parse, data.draw(told))


VARIABLES = st.sampled_from([each.env for each in Settings.variables()])
TOLD = texts(
    *("0", "1", "-", ".", "e", "nan", "inf", "true", "click", "=", ",", "http", "://", "host"),
    *(":", "9092", "/", "@", "10.0.0.0", "/8", "[", "::1", "]", "'", "user_id", "~", "\0", "*"),
)


@given(st.dictionaries(VARIABLES, TOLD, min_size=1, max_size=2))
def test_any_environment_is_settings_or_refused(environ):
    def read():
        settings = Settings.from_env(environ)
        assert repr(settings)
        assert Settings.from_env(settings.to_env()) == settings

    refused_well(read)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=3) | st.sampled_from(["min", "max"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(JSON)
def test_any_json_is_a_condition_or_refused(where):
    if not refused_well(conditions.conditions_of, where):
        assert len(conditions.conditions_of(where)) == len(where)


@given(JSON)
def test_any_value_is_an_id_or_refused(value):
    refused_well(checked_id, "user_id", value)


BODIES = st.binary(max_size=100) | JSON.map(lambda value: json.dumps(value).encode())


FIELDS = st.sampled_from(
    [
        *("user_id", "item_id", "interaction_type", "weight", "occurred_at", "event_id"),
        *("history", "users", "items", "n", "where", "exclude"),
    ]
)


@pytest.mark.parametrize(
    "parse",
    [
        lambda body: messages.parse(body, types=TYPES),
        lambda body: asked.parse_history(body, types=TYPES),
        asked.parse_users,
        asked.parse_basket,
    ],
    ids=["interactions", "a history", "users", "a basket"],
)
@given(data=st.data())
def test_any_body_is_understood_or_refused(parse, data):
    rows = st.dictionaries(FIELDS, JSON, max_size=4)
    of_rows = (rows | st.lists(rows, max_size=3)).map(lambda value: json.dumps(value).encode())
    refused_well(parse, data.draw(BODIES | of_rows))


def changed(content, data):
    """Return content with some of its bytes changed, cut off, or put in."""
    content = bytearray(content)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, max(0, len(content) - 1)))
        more = data.draw(st.binary(max_size=20))
        length = data.draw(st.sampled_from([0, len(more), 600]))
        content[place : place + length] = more
    return bytes(content)


def tar(**members):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as made:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            made.addfile(info, io.BytesIO(content))
    return stream.getvalue()


@given(data=st.data())
def test_any_file_is_a_backup_or_refused(tmp_path, data):
    manifest = b'{"format": 1, "product_version": "0.1.0"}'
    sound = tar(**{archive.MANIFEST: manifest, archive.SEAL: b"0"})
    path = tmp_path / "backup"
    path.write_bytes(data.draw(st.binary(max_size=600)) or changed(sound, data))
    assert refused_well(archive.check, path)


@given(
    told=JSON.map(json.dumps)
    | st.fixed_dictionaries(
        {
            "n": st.sampled_from([0, 1, 2, 3, 16, 2**80, "2", None, 1.5]),
            "r": st.sampled_from([0, 1, -1, 33, "x"]),
            "p": st.sampled_from([0, 1, -1, 17]),
            "salt": st.sampled_from(["", "AAAA", "?", 5]),
            "nonce": st.sampled_from(["", "AAAAAAAAAAAAAAAA", "A" * 400]),
            "sealed": st.sampled_from(["", "AAAA", "A" * 64]),
        }
    ).map(json.dumps)
    | st.text(max_size=20)
)
def test_any_text_is_sealed_keys_or_refused(told):
    assert refused_well(lambda: sealed_keys.unseal(told, "a passphrase of ours", context="test"))


@given(data=st.data())
def test_any_file_is_a_native_file_or_refused(tmp_path, data):
    path = tmp_path / "model"
    head = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    sound = len(head).to_bytes(8, "little") + head + np.zeros(2, np.float32).tobytes()
    path.write_bytes(data.draw(st.binary(max_size=200)) or changed(sound, data))
    assert refused_well(native.read, path)
