"""Settings: each field from one variable, refused by name, given back whole."""

import os
import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from reckeeper.config import Settings
from reckeeper.errors import ConfigError

ROOT = Path(__file__).parents[2]
VARIABLES = Settings.variables()


@pytest.mark.parametrize("variable", VARIABLES, ids=lambda variable: variable.field)
def test_every_field_has_variable_help_and_default(variable):
    known = r"RECKEEPER_[A-Z_]+|DATABASE_URL|KAFKA_BOOTSTRAP_SERVERS|KAFKA_\*"
    assert re.fullmatch(known, variable.env)
    assert variable.help.endswith(".")
    assert variable.default


def test_every_field_is_described():
    assert [variable.field for variable in VARIABLES] == list(Settings.model_fields)


def test_variables_are_unique():
    assert len({variable.env for variable in VARIABLES}) == len(VARIABLES)


def test_the_docs_list_the_settings_with_their_defaults():
    rows = re.findall(
        r"^\| `([A-Z_*]+)` \| ([^|]+) \|",
        (ROOT / "docs/operate/settings.md").read_text(),
        re.MULTILINE,
    )
    assert {name: shown.strip().strip("`") for name, shown in rows} == {
        variable.env: variable.default.strip("`") for variable in VARIABLES
    }


def test_defaults(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    settings = Settings.from_env({})
    assert settings.data_dir == tmp_path / "data"
    assert settings.model_dir == tmp_path / "models"
    assert settings.host == "127.0.0.1"
    assert (settings.server_port, settings.worker_port, settings.ui_port) == (8000, 5000, 8501)
    assert settings.server_url == "http://127.0.0.1:8000"
    assert settings.worker_url == "http://127.0.0.1:5000"
    assert settings.database_url is None
    assert settings.is_embedded
    assert settings.demo is True
    assert settings.retrain_schedule is None
    assert settings.timezone == "UTC"
    assert settings.interaction_weights == {"click": 1.0, "watchlist_add": 2.0}
    assert settings.prediction_cell_limit == 5_000_000
    assert settings.job_timeout_seconds == 86_400
    assert settings.training_memory_bytes is None
    assert settings.audit_key is None
    assert settings.versions_kept == 10


def test_in_a_clone_the_models_lie_where_the_contract_has_them(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kafka_worker").mkdir()
    assert Settings.from_env({}).model_dir == tmp_path / "kafka_worker" / "models"


def test_only_from_env_reads_the_environment(monkeypatch):
    monkeypatch.setenv("RECKEEPER_VERSIONS_KEPT", "7")
    assert Settings().versions_kept == 10


def test_reads_the_environment_of_the_process(monkeypatch):
    monkeypatch.setenv("RECKEEPER_VERSIONS_KEPT", "7")
    assert Settings.from_env().versions_kept == 7


def test_an_empty_variable_counts_as_unset():
    assert Settings.from_env({"RECKEEPER_SERVER_PORT": " "}).server_port == 8000


def test_settings_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        Settings.from_env({}).host = "0.0.0.0"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("RECKEEPER_SERVER_PORT", "http"),
        ("RECKEEPER_SERVER_PORT", "0"),
        ("RECKEEPER_WORKER_PORT", "65536"),
        ("RECKEEPER_UI_PORT", "-1"),
        ("RECKEEPER_UI_PORT", "1.5"),
        ("RECKEEPER_UI_PORT", "9" * 5000),
        ("RECKEEPER_SERVER_URL", "localhost:8000"),
        ("RECKEEPER_SERVER_URL", "ftp://localhost"),
        ("RECKEEPER_WORKER_URL", "http://"),
        ("RECKEEPER_CORS_ORIGINS", "*"),
        ("RECKEEPER_CORS_ORIGINS", "shop.example.org"),
        ("RECKEEPER_CORS_ORIGINS", "https://shop.example.org/page"),
        ("RECKEEPER_CORS_ORIGINS", "https://shop.example.org,"),
        ("RECKEEPER_ALLOWED_HOSTS", "*"),
        ("RECKEEPER_ALLOWED_HOSTS", "https://reckeeper.example.org"),
        ("RECKEEPER_WEBHOOK_ALLOW", "10.0.0.7/8"),
        ("RECKEEPER_WEBHOOK_ALLOW", "hooks.internal/path"),
        ("RECKEEPER_DEMO", "maybe"),
        ("RECKEEPER_TIMEZONE", "Europe/Atlantis"),
        ("RECKEEPER_TIMEZONE", "../etc/passwd"),
        ("RECKEEPER_INTERACTION_WEIGHTS", "click"),
        ("RECKEEPER_INTERACTION_WEIGHTS", "click="),
        ("RECKEEPER_INTERACTION_WEIGHTS", "click=much"),
        ("RECKEEPER_INTERACTION_WEIGHTS", "click=nan"),
        ("RECKEEPER_INTERACTION_WEIGHTS", "click=inf"),
        ("RECKEEPER_INTERACTION_WEIGHTS", "click=1e7"),
        ("RECKEEPER_INTERACTION_WEIGHTS", "Click=1"),
        ("RECKEEPER_INTERACTION_WEIGHTS", "click=1,"),
        ("RECKEEPER_INTERACTION_WEIGHTS", "watchlist_remove=1"),
        ("RECKEEPER_INTERACTION_WEIGHTS", "click=1,dismiss=0"),
        ("RECKEEPER_PREDICTION_CELL_LIMIT", "-1"),
        ("RECKEEPER_JOB_TIMEOUT_SECONDS", "0"),
        ("RECKEEPER_TRAINING_MEMORY_BYTES", "0"),
        ("RECKEEPER_TRAINING_MEMORY_BYTES", "8 GB"),
        ("RECKEEPER_VERSIONS_KEPT", "1"),
        ("RECKEEPER_POLL_SECONDS", "0"),
        ("RECKEEPER_POLL_SECONDS", "nan"),
        ("RECKEEPER_POLL_SECONDS", "often"),
    ],
)
def test_a_bad_value_is_refused_by_name(variable, value):
    with pytest.raises(ConfigError) as caught:
        Settings.from_env({variable: value})
    assert caught.value.message.startswith(f"{variable}={value!r} cannot be used: ")


def test_a_new_active_version_is_looked_for_twice_a_second():
    assert Settings.from_env({"RECKEEPER_POLL_SECONDS": "0.4"}).poll_seconds == 0.4
    with pytest.raises(ConfigError, match=r"0\.4 seconds: every process looks .* twice a second"):
        Settings.from_env({"RECKEEPER_POLL_SECONDS": "0.41"})


def test_a_bad_secret_is_refused_without_showing_it():
    with pytest.raises(ConfigError) as caught:
        Settings.from_env({"RECKEEPER_AUDIT_KEY": "fifteen letters"})
    assert caught.value.message == (
        "RECKEEPER_AUDIT_KEY=*** cannot be used: must have at least 16 characters. "
        "Correct it or unset it."
    )
    assert "fifteen" not in str(caught.value)


def test_secrets_are_not_shown():
    settings = Settings.from_env({"RECKEEPER_AUDIT_KEY": "sixteen letters!"})
    assert settings.audit_key == "sixteen letters!"
    assert "sixteen" not in repr(settings)
    assert "audit_key" not in repr(settings)


@pytest.mark.parametrize("text", ["1", "true", "YES", "on"])
def test_flag_is_on(text):
    assert Settings.from_env({"RECKEEPER_DEMO": text}).demo is True


@pytest.mark.parametrize("text", ["0", "False", "no", "OFF"])
def test_flag_is_off(text):
    assert Settings.from_env({"RECKEEPER_DEMO": text}).demo is False


def test_weights_are_parsed():
    text = "click=1, rating=0.5,dislike=-2"
    weights = Settings.from_env({"RECKEEPER_INTERACTION_WEIGHTS": text}).interaction_weights
    assert weights == {"click": 1.0, "rating": 0.5, "dislike": -2.0}


def test_origins_are_a_list():
    text = "https://shop.example.org/, http://localhost:3000"
    settings = Settings.from_env({"RECKEEPER_CORS_ORIGINS": text})
    assert settings.cors_origins == ("https://shop.example.org", "http://localhost:3000")


def test_hosts_are_a_list_and_ports_are_left_out():
    text = "Reckeeper.example.org:443, server,"
    settings = Settings.from_env({"RECKEEPER_ALLOWED_HOSTS": text})
    assert settings.allowed_hosts == ("reckeeper.example.org", "server")


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("::", "http://[::1]:8000"),
        ("::1", "http://[::1]:8000"),
        ("10.0.0.7", "http://10.0.0.7:8000"),
    ],
)
def test_urls_follow_the_host(host, url):
    assert Settings.from_env({"RECKEEPER_HOST": host}).server_url == url


def test_a_url_that_is_set_stands():
    settings = Settings.from_env({"RECKEEPER_SERVER_URL": "https://example.org/reckeeper/"})
    assert settings.server_url == "https://example.org/reckeeper"


@pytest.mark.parametrize(("cores", "processes"), [(1, 1), (2, 1), (3, 1), (4, 2), (64, 32)])
def test_half_the_cores_answer(monkeypatch, cores, processes):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    assert Settings.from_env({}).server_processes == processes


OTHER_VALUES = {
    "RECKEEPER_DATA_DIR": "/tmp/some where/data",
    "RECKEEPER_MODEL_DIR": "/tmp/ä/models",
    "RECKEEPER_HOST": "0.0.0.0",
    "RECKEEPER_OPEN": "1",
    "RECKEEPER_API_KEY": "rk_0123456789ab_x",
    "RECKEEPER_WORKER_SECRET": "fedcba9876543210",
    "RECKEEPER_SERVER_PORT": "18000",
    "RECKEEPER_SERVER_PROCESSES": "97",
    "RECKEEPER_WORKER_PORT": "15000",
    "RECKEEPER_UI_PORT": "18501",
    "RECKEEPER_SERVER_URL": "http://example.org:1",
    "RECKEEPER_WORKER_URL": "http://example.org:2",
    "RECKEEPER_MAX_UPLOAD_BYTES": "0",
    "RECKEEPER_PAGE_MAX_UPLOAD_BYTES": "1000",
    "RECKEEPER_CORS_ORIGINS": "https://shop.example.org,http://localhost:3000",
    "RECKEEPER_ALLOWED_HOSTS": "reckeeper.example.org,server",
    "RECKEEPER_WEBHOOK_ALLOW": "hooks.internal,10.0.0.0/8",
    "RECKEEPER_MODEL_SOURCE_URL": "http://models.example.org:8000",
    "DATABASE_URL": "sqlite:////tmp/x.db",
    "RECKEEPER_DATABASE_SCHEMA": "reckeeper",
    "KAFKA_BOOTSTRAP_SERVERS": "one:9092,two:9093",
    "RECKEEPER_KAFKA_TOPIC": "shop.clicks",
    "RECKEEPER_KAFKA_GROUP": "keepers",
    "RECKEEPER_KAFKA_PARTITIONS": "12",
    "RECKEEPER_KAFKA_RETENTION_HOURS": "24",
    "RECKEEPER_KAFKA_FIELDS": (
        "user_id=customer.id,item_id=sku,interaction_type='a, b=c',occurred_at=ts:ms"
    ),
    "RECKEEPER_KAFKA_MAX_LAG": "7",
    "RECKEEPER_DEMO": "0",
    "RECKEEPER_RETRAIN_SCHEDULE": "0 3 * * 0",
    "RECKEEPER_TIMEZONE": "Europe/Berlin",
    "RECKEEPER_INTERACTION_WEIGHTS": "click=0.1,rating=-3.25",
    "RECKEEPER_PREDICTION_CELL_LIMIT": "0",
    "RECKEEPER_JOB_TIMEOUT_SECONDS": "60",
    "RECKEEPER_TRAINING_MEMORY_BYTES": "1000000000",
    "RECKEEPER_POLL_SECONDS": "0.1",
    "RECKEEPER_AUDIT_KEY": "0123456789abcdef",
    "RECKEEPER_BACKUP_PASSPHRASE": "long enough a phrase",
    "RECKEEPER_VERSIONS_KEPT": "3",
}


def test_every_field_takes_another_value():
    standard, other = Settings.from_env({}), Settings.from_env(OTHER_VALUES)
    assert {*OTHER_VALUES, "KAFKA_*"} == {variable.env for variable in VARIABLES}
    for field in Settings.model_fields:
        if field != "kafka_options":
            assert getattr(standard, field) != getattr(other, field), field


@pytest.mark.parametrize("environ", [{}, OTHER_VALUES], ids=["defaults", "others"])
def test_round_trip(environ):
    settings = Settings.from_env(environ)
    assert Settings.from_env(settings.to_env()) == settings


def test_settings_hold_when_put_over_another_environment():
    settings = Settings.from_env({})
    assert Settings.from_env({**OTHER_VALUES, **settings.to_env()}) == settings


def test_what_a_cluster_asks_for_goes_by_the_names_of_librdkafka():
    environ = {
        "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "KAFKA_SASL_PASSWORD": "a=b, c",
        "KAFKA_SSL_CA_PEM": "-----BEGIN-----\nabc\n-----END-----",
        "KAFKA_SASL_USERNAME": " ",
        "KAFKA_HEAP_OPTS": "-Xmx1g",
        "KAFKA_BOOTSTRAP_SERVERS": "one:9092",
    }
    settings = Settings.from_env(environ)
    assert settings.kafka_options == {
        "security.protocol": "SASL_SSL",
        "sasl.password": "a=b, c",
        "ssl.ca.pem": "-----BEGIN-----\nabc\n-----END-----",
    }
    assert "a=b" not in repr(settings)
    assert Settings.from_env(settings.to_env()) == settings
    assert settings.uses_kafka


def test_the_fields_of_a_foreign_message_are_read():
    text = "user_id=customer.id, item_id=sku ,interaction_type='it, is=so',occurred_at=at:ms"
    assert Settings.from_env({"RECKEEPER_KAFKA_FIELDS": text}).kafka_fields == {
        "user_id": "customer.id",
        "item_id": "sku",
        "interaction_type": "'it, is=so'",
        "occurred_at": "at:ms",
    }


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("RECKEEPER_DATABASE_SCHEMA", 'a"b', "must be a name of small letters"),
        ("RECKEEPER_DATABASE_SCHEMA", "Shop", "must be a name of small letters"),
        ("KAFKA_BOOTSTRAP_SERVERS", "broker", "must look like host:9092"),
        ("RECKEEPER_KAFKA_TOPIC", "a b", "must have 1 to 245 letters"),
        ("RECKEEPER_KAFKA_PARTITIONS", "0", "must be at least 1"),
        ("RECKEEPER_KAFKA_FIELDS", "user_id=u,item_id=i", "interaction_type is missing"),
        ("RECKEEPER_KAFKA_FIELDS", "user=u", "must look like user_id=customer.id"),
        ("RECKEEPER_KAFKA_FIELDS", "user_id=u:h", "user_id must name a path"),
        ("RECKEEPER_KAFKA_FIELDS", "user_id=", "user_id must name a path"),
    ],
)
def test_bad_settings_of_database_and_streams_are_refused(name, value, message):
    with pytest.raises(ConfigError, match=message) as caught:
        Settings.from_env({name: value})
    assert name in caught.value.message


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("postgresql://anna:secret@db/shop", "postgresql://anna:***@db/shop"),
        ("postgresql://anna:sec@ret@db/shop", "postgresql://anna:***@db/shop"),
        ("postgresql://:sec:ret@db/shop", "postgresql://:***@db/shop"),
        ("postgresql://db/x?password=secret&a=b", "postgresql://db/x?password=***&a=b"),
        ("postgresql://db/x?a=b&Password=secret", "postgresql://db/x?a=b&Password=***"),
        ("sqlite:////data/a:b@c.db", "sqlite:////data/a:b@c.db"),
        ("anna:secret@db/shop", "anna:***@db/shop"),
        ("//anna:secret@db/shop", "//anna:***@db/shop"),
        ("postgresql:anna:secret@db/shop", "postgresql:***@db/shop"),
        ("postgresql:/anna:sec@ret@db/shop", "postgresql:***@db/shop"),
    ],
)
def test_passwords_are_masked(url, masked):
    settings = Settings.from_env({"DATABASE_URL": url})
    assert settings.masked_database_url == masked
    assert not re.search("secret|sec@ret|sec:ret", repr(settings))
    assert masked in repr(settings)


def test_a_text_can_be_told_without_where_the_folders_are():
    settings = Settings().replaced(data_dir=Path("/srv/data"), model_dir=Path("/srv/data/models"))
    for text, told in (
        ("/srv/data/models/a.pkl is gone", "a.pkl is gone"),
        ("/srv/data/imports/7/f.csv: no", "imports/7/f.csv: no"),
        ("nothing in /srv/data/models.", "nothing in the model folder."),
        ("/srv/data is full", "the data folder is full"),
        (
            "/srv/database/x stays, and /var/srv/data/x",
            "/srv/database/x stays, and /var/srv/data/x",
        ),
    ):
        assert settings.without_folders(text) == told
