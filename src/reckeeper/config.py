"""The only reader of the environment: one frozen `Settings`."""

import dataclasses
import json
import math
import os
import re
import zoneinfo
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reckeeper.errors import ConfigError


def _whole_number(text: str) -> int:
    if not re.fullmatch(r"-?\d{1,18}", text):
        raise ValueError("must be a whole number")
    return int(text)


def _port(text: str) -> int:
    port = _whole_number(text)
    if not 1 <= port <= 65535:
        raise ValueError("must lie between 1 and 65535")
    return port


def _at_least(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        number = _whole_number(text)
        if number < least:
            raise ValueError(f"must be at least {least}")
        return number

    return parse


def _flag(text: str) -> bool:
    if text.lower() in {"1", "true", "yes", "on"}:
        return True
    if text.lower() in {"0", "false", "no", "off"}:
        return False
    raise ValueError("must be 1 or 0")


def _url(text: str) -> str:
    if not re.fullmatch(r"https?://[^/\s]+(/\S*)?", text):
        raise ValueError("must look like http://host:port")
    return text.rstrip("/")


def _timezone(text: str) -> str:
    try:
        zoneinfo.ZoneInfo(text)
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError) as exc:
        raise ValueError("must be a time zone's name, such as Europe/Berlin") from exc
    return text


def _weights(text: str) -> dict[str, float]:
    weights = {}
    for part in text.split(","):
        name, equals, number = part.strip().partition("=")
        if not equals or not re.fullmatch(r"[a-z][a-z0-9_]{0,63}", name):
            raise ValueError("must look like click=1,watchlist_add=2")
        if name == "watchlist_remove":
            raise ValueError("watchlist_remove takes back an addition and has no weight")
        try:
            weights[name] = float(number)
        except ValueError:
            raise ValueError(f"the weight of {name} must be a number, not {number!r}") from None
        if not math.isfinite(weights[name]) or abs(weights[name]) > 1e6:
            raise ValueError(f"the weight of {name} must lie between -1e6 and 1e6")
    if max(weights.values()) <= 0:
        raise ValueError("one weight at least must be above 0")
    return weights


def _schema(text: str) -> str:
    if not re.fullmatch(r"(?!pg_)[a-z_][a-z0-9_]{0,62}", text):
        raise ValueError(
            "must be a name of small letters, digits and _, 63 characters at most, and not begin "
            "with pg_"
        )
    return text


def _topic(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,245}", text) or text in {".", ".."}:
        raise ValueError("must have 1 to 245 letters, digits, dots, _ or -")
    return text


def _brokers(text: str) -> str:
    brokers = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"([A-Za-z_]+://)?[^\s/,]+:\d{1,5}", broker) for broker in brokers):
        raise ValueError("must look like host:9092,other:9092")
    return ",".join(brokers)


_MESSAGE_FIELDS = (
    "event_id", "user_id", "item_id", "interaction_type", "weight", "occurred_at",
)  # fmt: skip


def _message_fields(text: str) -> dict[str, str]:
    places = {}
    # A comma or an equals sign may stand in a constant.
    for part in re.findall(r"(?:[^,']|'[^']*')+", text):
        name, equals, place = part.strip().partition("=")
        if not equals or name not in _MESSAGE_FIELDS:
            raise ValueError(
                "must look like user_id=customer.id,item_id=sku,interaction_type='click', with "
                f"the fields {', '.join(_MESSAGE_FIELDS)}"
            )
        if not re.fullmatch(r"'[^']*'|[^\s':]+(:(s|ms|us))?", place):
            raise ValueError(
                f"{name} must name a path, such as customer.id or ts:ms, or hold a constant in "
                "single quotes"
            )
        places[name] = place
    missing = {"user_id", "item_id", "interaction_type"} - set(places)
    if missing:
        raise ValueError(f"{min(missing)} is missing")
    return places


# Of librdkafka's settings, those that a cluster may ask for; the rest is ours to choose.
_KAFKA_PREFIXES = (
    "KAFKA_SECURITY_", "KAFKA_SASL_", "KAFKA_SSL_", "KAFKA_ENABLE_SSL_", "KAFKA_ENABLE_SASL_",
    "KAFKA_HTTPS_", "KAFKA_CLIENT_", "KAFKA_BROKER_", "KAFKA_SOCKET_", "KAFKA_DEBUG",
)  # fmt: skip


def _kafka_options(text: str) -> dict[str, str]:
    """Take variables, with a NUL between, as librdkafka's settings by its own names."""
    options = (line.partition("=") for line in text.split("\0") if line)
    return {
        name.removeprefix("KAFKA_").lower().replace("_", "."): value for name, _, value in options
    }


def _key(text: str) -> str:
    if len(text) < 16:
        raise ValueError("must have at least 16 characters")
    return text


def _folder(text: str) -> Path:
    return Path(text).expanduser()


def _setting(
    env: str,
    default: str | None,
    parse: Callable[[str], Any],
    help: str,
    *,
    shown_default: str | None = None,
    is_secret: bool = False,
) -> Any:
    shown = shown_default if shown_default is not None else (default or "")
    return dataclasses.field(
        metadata={
            "env": env,
            "default": default,
            "parse": parse,
            "help": help,
            "shown": shown,
            "is_secret": is_secret,
        }
    )


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What an operator can set, each field from one environment variable.

    The metadata of a field holds its variable (``env``), default, parser and
    help text; README's table is held against them by a test.
    """

    data_dir: Path = _setting(
        "RECKEEPER_DATA_DIR", "data", _folder, "Folder of the SQLite file and the logs.",
        shown_default="./data",
    )  # fmt: skip
    model_dir: Path = _setting(
        "RECKEEPER_MODEL_DIR", "kafka_worker/models", _folder, "Folder of the model files."
    )
    host: str = _setting(
        "RECKEEPER_HOST", "127.0.0.1", str, "Address on which the processes listen."
    )
    server_port: int = _setting("RECKEEPER_SERVER_PORT", "8000", _port, "Port of the public API.")
    worker_port: int = _setting("RECKEEPER_WORKER_PORT", "5000", _port, "Port of the worker.")
    ui_port: int = _setting("RECKEEPER_UI_PORT", "8501", _port, "Port of the page.")
    server_url: str = _setting(
        "RECKEEPER_SERVER_URL", None, _url, "Where page and command line find the server.",
        shown_default="from host and port",
    )  # fmt: skip
    worker_url: str = _setting(
        "RECKEEPER_WORKER_URL", None, _url, "Where the server finds the worker.",
        shown_default="from host and port",
    )  # fmt: skip
    database_url: str | None = _setting(
        "DATABASE_URL", None, str,
        "Database to use instead of the embedded one, as `postgresql+psycopg://user@host/name` or "
        "`sqlite:////path/to/file.db`.",
        shown_default="the embedded database",
    )  # fmt: skip
    database_schema: str = _setting(
        "RECKEEPER_DATABASE_SCHEMA", "public", _schema,
        "Schema in PostgreSQL that holds the tables; made if need be.",
    )  # fmt: skip
    kafka_bootstrap_servers: str | None = _setting(
        "KAFKA_BOOTSTRAP_SERVERS", None, _brokers,
        "Brokers through which interactions come in, as `host:9092,other:9092`.",
        shown_default="none: straight into the database",
    )  # fmt: skip
    kafka_topic: str = _setting(
        "RECKEEPER_KAFKA_TOPIC", "user_interactions", _topic,
        "Topic of the interactions; dead letters go to the one with `.dlq` behind its name.",
    )  # fmt: skip
    kafka_group: str = _setting(
        "RECKEEPER_KAFKA_GROUP", "reckeeper", str, "Consumer group of the workers."
    )
    kafka_partitions: int = _setting(
        "RECKEEPER_KAFKA_PARTITIONS", "6", _at_least(1),
        "Partitions of the topic, where Reckeeper makes it.",
    )  # fmt: skip
    kafka_retention_hours: int = _setting(
        "RECKEEPER_KAFKA_RETENTION_HOURS", "168", _at_least(1),
        "Hours for which the topic keeps messages, where Reckeeper makes it.",
    )  # fmt: skip
    kafka_fields: Mapping[str, str] | None = _setting(
        "RECKEEPER_KAFKA_FIELDS", None, _message_fields,
        "Where the fields are in a topic of another format, as "
        "`user_id=customer.id,item_id=sku,interaction_type='click',occurred_at=ts:ms`.",
        shown_default="the format of Reckeeper",
    )  # fmt: skip
    kafka_max_lag: int = _setting(
        "RECKEEPER_KAFKA_MAX_LAG", "100000", _at_least(1),
        "Messages that the workers may be behind before `GET /health/ready` says so.",
    )  # fmt: skip
    demo: bool = _setting(
        "RECKEEPER_DEMO", "1", _flag,
        "Load the demo data when the embedded database is empty; `0` starts empty.",
    )  # fmt: skip
    retrain_schedule: str | None = _setting(
        "RECKEEPER_RETRAIN_SCHEDULE", None, str,
        "When to retrain by itself: a cron expression, such as `0 3 * * 0` (Sundays at 3).",
        shown_default="never",
    )  # fmt: skip
    timezone: str = _setting(
        "RECKEEPER_TIMEZONE", "UTC", _timezone, "Time zone in which the schedule is read."
    )
    interaction_weights: Mapping[str, float] = _setting(
        "RECKEEPER_INTERACTION_WEIGHTS", "click=1,watchlist_add=2", _weights,
        "Interaction types that are taken in, and what one of each weighs in training.",
    )  # fmt: skip
    prediction_cell_limit: int = _setting(
        "RECKEEPER_PREDICTION_CELL_LIMIT", "5000000", _at_least(0),
        "Users times items up to which the pickle carries all predicted ratings.",
    )  # fmt: skip
    job_timeout_seconds: int = _setting(
        "RECKEEPER_JOB_TIMEOUT_SECONDS", "86400", _at_least(1),
        "Seconds after which a job is ended.",
    )  # fmt: skip
    training_memory_bytes: int | None = _setting(
        "RECKEEPER_TRAINING_MEMORY_BYTES", None, _at_least(1),
        "Bytes that a job may need by its estimate; a larger one is refused.",
        shown_default="what is free",
    )  # fmt: skip
    audit_key: str | None = _setting(
        "RECKEEPER_AUDIT_KEY", None, _key,
        "Key of the audit trail's chain, 16 characters or more; the same in all processes.",
        shown_default="`audit.key` in the data folder, made at first", is_secret=True,
    )  # fmt: skip
    versions_kept: int = _setting(
        "RECKEEPER_VERSIONS_KEPT", "10", _at_least(2),
        "Model versions kept; the oldest inactive ones beyond are deleted after a retrain.",
    )  # fmt: skip
    kafka_options: Mapping[str, str] = _setting(
        "KAFKA_*", "", _kafka_options,
        "What a cluster asks for, by librdkafka's own names: `KAFKA_SASL_PASSWORD` is its "
        "`sasl.password`. Of its settings, those of SASL, TLS, client, broker and socket.",
        shown_default="none", is_secret=True,
    )  # fmt: skip

    @property
    def uses_kafka(self) -> bool:
        """Whether interactions come in through Kafka."""
        return self.kafka_bootstrap_servers is not None

    @property
    def is_embedded(self) -> bool:
        """Whether the database is the one that Reckeeper makes for itself."""
        return self.database_url is None

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> "Settings":
        """Read the settings from `environ`, by default the process's own.

        An empty variable counts as unset. Relative folders are taken from the
        current directory.

        Raises
        ------
        ConfigError
            A value cannot be used; the message names the variable.
        """
        environ = os.environ if environ is None else environ
        values: dict[str, Any] = {}
        several = "\0".join(
            f"{name}={value.strip()}"
            for name, value in sorted(environ.items())
            if name.startswith(_KAFKA_PREFIXES) and value.strip()
        )
        environ = {**environ, "KAFKA_*": several}
        for field in dataclasses.fields(cls):
            text = environ.get(field.metadata["env"], "").strip() or field.metadata["default"]
            try:
                values[field.name] = None if text is None else field.metadata["parse"](text)
            except ValueError as exc:
                shown = "***" if field.metadata["is_secret"] else repr(text)
                raise ConfigError(
                    f"{field.metadata['env']}={shown} cannot be used: {exc}. "
                    "Correct it or unset it."
                ) from exc
        reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(values["host"], values["host"])
        if ":" in reachable:
            reachable = f"[{reachable}]"
        values["server_url"] = values["server_url"] or f"http://{reachable}:{values['server_port']}"
        values["worker_url"] = values["worker_url"] or f"http://{reachable}:{values['worker_port']}"
        values["data_dir"] = values["data_dir"].absolute()
        values["model_dir"] = values["model_dir"].absolute()
        return cls(**values)

    def to_env(self) -> dict[str, str]:
        """Return the variables that make `from_env` give these settings again.

        What is not set is an empty variable: put over another environment,
        these settings hold.
        """
        environ = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name == "kafka_options":
                for name, option in value.items():
                    environ[f"KAFKA_{name.upper().replace('.', '_')}"] = option
                continue
            if value is None:
                value = ""
            elif isinstance(value, Mapping):
                value = ",".join(f"{name}={part}" for name, part in value.items())
            environ[field.metadata["env"]] = str(int(value) if isinstance(value, bool) else value)
        return environ

    def __repr__(self) -> str:
        shown = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name != "database_url" and not field.metadata["is_secret"]
        }
        return (
            f"Settings({json.dumps(shown, default=str)}, database_url={self.masked_database_url!r})"
        )

    @property
    def masked_database_url(self) -> str | None:
        """The database's URL with its password hidden."""
        if self.database_url is None:
            return None
        masked = re.sub(r"(://[^:/@]*):.*@", r"\1:***@", self.database_url)
        secrets = r"([?&][^=&]*(?:pass|pwd|secret|token|key)[^=&]*=)[^&]*"
        return re.sub(secrets, r"\1***", masked, flags=re.IGNORECASE)
