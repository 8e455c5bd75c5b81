"""The only reader of the environment: one frozen `Settings`."""

import ipaddress
import json
import math
import os
import re
import zoneinfo
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from pydantic.config import JsonDict
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from reckeeper import hosts
from reckeeper.errors import ConfigError
from reckeeper.interactions import WITHOUT_WEIGHT

LONGEST_POLL_SECONDS = 0.4

# How pydantic's findings are worded; those of the functions below come with their own words.
_WORDS = {
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a whole number",
    "float_parsing": "must be a number",
    "bool_parsing": "must be 1 or 0",
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
}


def _url(text: str) -> str:
    if not re.fullmatch(r"https?://[^/\s]+(/\S*)?", text):
        raise ValueError("must look like http://host:port")
    return text.rstrip("/")


def _origins(text: str) -> tuple[str, ...]:
    origins = tuple(part.strip().rstrip("/") for part in text.split(",")) if text else ()
    for origin in origins:
        if not re.fullmatch(r"https?://[^/\s,*@]+", origin):
            raise ValueError(
                f"{origin!r} is no origin: name pages as https://shop.example.org, with commas "
                "between them"
            )
    return origins


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
        if name in WITHOUT_WEIGHT:
            raise ValueError(f"{name} {WITHOUT_WEIGHT[name]} and has no weight")
        try:
            weights[name] = float(number)
        except ValueError:
            raise ValueError(f"the weight of {name} must be a number, not {number!r}") from None
        if not math.isfinite(weights[name]) or abs(weights[name]) > 1e6:
            raise ValueError(f"the weight of {name} must lie between -1e6 and 1e6")
    if max(weights.values()) <= 0:
        raise ValueError("at least one weight must be above 0")
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
    for part in re.findall(r"(?:[^,']|'[^']*')+", str(text)):  # JSON has been read by then
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


# The settings of librdkafka that a cluster may ask for; Reckeeper chooses the others.
_KAFKA_PREFIXES = (
    "KAFKA_SECURITY_", "KAFKA_SASL_", "KAFKA_SSL_", "KAFKA_ENABLE_SSL_", "KAFKA_ENABLE_SASL_",
    "KAFKA_HTTPS_", "KAFKA_CLIENT_", "KAFKA_BROKER_", "KAFKA_SOCKET_", "KAFKA_DEBUG",
)  # fmt: skip


def _kafka_options(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what the variables ask of librdkafka, by its own names."""
    return {
        name.removeprefix("KAFKA_").lower().replace("_", "."): value
        for name, value in sorted(environ.items())
        if name.startswith(_KAFKA_PREFIXES) and value
    }


def _key(text: str) -> str:
    if len(text) < 16:
        raise ValueError("must have at least 16 characters")
    return text


def _folder(path: Path) -> Path:
    try:
        return path.expanduser().absolute()
    except RuntimeError as exc:
        raise ValueError("is in the home of a user that this machine does not know") from exc


def _default_model_dir() -> Path:
    """Return where the models lie: in a clone where the contract has them."""
    return Path("kafka_worker/models" if Path("kafka_worker").is_dir() else "models")


def _half_the_cores() -> int:
    """Return half the cores that this process may run on, at least one: training needs some too."""
    try:
        n_cores = len(os.sched_getaffinity(0))
    except AttributeError:  # where the system has no such call
        n_cores = os.cpu_count() or 1
    return max(1, n_cores // 2)


def share_metrics(folder: Path) -> None:
    """Let this process and those that it starts keep their metrics in one folder.

    To be called before `telemetry` is imported: the metrics' library reads the environment then.
    """
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)


def reachable(host: str) -> str:
    """Return where a process of this machine that listens on `host` is reached."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def address(host: str, port: int) -> str:
    """Return the URL of a process of this machine that listens on `host`."""
    host = reachable(host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _pause(seconds: float) -> float:
    # A look takes a moment itself.
    if not 0.01 <= seconds <= LONGEST_POLL_SECONDS:
        raise ValueError(
            f"must be 0.01 to {LONGEST_POLL_SECONDS} seconds: every process looks for a new "
            "active version at least twice a second"
        )
    return seconds


_Folder = Annotated[Path, AfterValidator(_folder)]
_Port = Annotated[int, Field(ge=1, le=65_535)]
_Pause = Annotated[float, AfterValidator(_pause)]
_Count = Annotated[int, Field(ge=1)]
_Url = Annotated[str, AfterValidator(_url)]
_Timezone = Annotated[str, AfterValidator(_timezone)]
_Schema = Annotated[str, AfterValidator(_schema)]
_Topic = Annotated[str, AfterValidator(_topic)]
_Brokers = Annotated[str, AfterValidator(_brokers)]
_Key = Annotated[str, AfterValidator(_key)]
_Fields = Annotated[Mapping[str, str], NoDecode, BeforeValidator(_message_fields)]
_Origins = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_origins)]
_Hosts = Annotated[tuple[str, ...], NoDecode, BeforeValidator(hosts.listed)]
_Receivers = Annotated[tuple[str, ...], NoDecode, BeforeValidator(hosts.listed_with_networks)]
_Weights = Annotated[Mapping[str, float], NoDecode, BeforeValidator(_weights)]


class Variable(NamedTuple):
    """What the environment variable of a setting is.

    Attributes
    ----------
    field : str
        Of `Settings`.
    env : str
    default : str
        For people.
    help : str
    is_secret : bool
        Whether its value is never shown.
    """

    field: str
    env: str
    default: str
    help: str
    is_secret: bool


def _setting(
    env: str, default: Any, help: str, *, shown: str | None = None, is_secret: bool = False
) -> Any:
    made = {"default_factory": default} if callable(default) else {"default": default}
    extra: JsonDict = {"shown": str(default) if shown is None else shown, "is_secret": is_secret}
    return Field(**made, validation_alias=env, description=help, json_schema_extra=extra)


class Settings(BaseSettings):
    """What an operator can set, each field from one environment variable.

    `variables` describes them, and the documented list is held against it by
    a test. Only `from_env` reads the environment.
    """

    model_config = SettingsConfigDict(frozen=True, extra="forbid", case_sensitive=True)

    data_dir: _Folder = _setting(
        "RECKEEPER_DATA_DIR", Path("data"), "Folder of the SQLite file and the logs.",
        shown="./data",
    )  # fmt: skip
    model_dir: _Folder = _setting(
        "RECKEEPER_MODEL_DIR", _default_model_dir, "Folder of the model files.",
        shown="./models, in a clone ./kafka_worker/models",
    )  # fmt: skip
    host: str = _setting("RECKEEPER_HOST", "127.0.0.1", "Address on which the processes listen.")
    is_open: bool = _setting(
        "RECKEEPER_OPEN", False,
        "`1` lets the processes listen where others reach them without an API key: something in "
        "front of them guards every port. Keys that are there count all the same.", shown="0",
    )  # fmt: skip
    server_port: _Port = _setting("RECKEEPER_SERVER_PORT", 8000, "Port of the public API.")
    server_processes: _Count = _setting(
        "RECKEEPER_SERVER_PROCESSES", _half_the_cores,
        "Processes that answer on the port of the public API.",
        shown="half the cores, at least 1",
    )  # fmt: skip
    worker_port: _Port = _setting("RECKEEPER_WORKER_PORT", 5000, "Port of the worker.")
    ui_port: _Port = _setting("RECKEEPER_UI_PORT", 8501, "Port of the page.")
    server_url: _Url = _setting(
        "RECKEEPER_SERVER_URL", lambda given: address(given["host"], given["server_port"]),
        "Where the page and the command line find the server.", shown="from host and port",
    )  # fmt: skip
    worker_url: _Url = _setting(
        "RECKEEPER_WORKER_URL", lambda given: address(given["host"], given["worker_port"]),
        "Where the server finds the worker.", shown="from host and port",
    )  # fmt: skip
    model_source_url: _Url | None = _setting(
        "RECKEEPER_MODEL_SOURCE_URL", None,
        "A server from which this one fetches the versions that its own model folder lacks.",
        shown="none: the folder is shared",
    )  # fmt: skip
    max_upload_bytes: Annotated[int, Field(ge=0)] = _setting(
        "RECKEEPER_MAX_UPLOAD_BYTES", 50_000_000_000,
        "Bytes of a file that is sent to the server to be imported; `0` takes any.",
    )  # fmt: skip
    page_max_upload_bytes: _Count = _setting(
        "RECKEEPER_PAGE_MAX_UPLOAD_BYTES", 200 * 1024**2,
        "Bytes of a file that the page takes, which holds it in memory.",
    )  # fmt: skip
    cors_origins: _Origins = _setting(
        "RECKEEPER_CORS_ORIGINS", "",
        "Origins whose pages may call the API from a browser, as "
        "`https://shop.example.org,https://www.example.org`.",
        shown="none",
    )  # fmt: skip
    allowed_hosts: _Hosts = _setting(
        "RECKEEPER_ALLOWED_HOSTS", "",
        "Further names by which server, worker and page are called, such as a reverse proxy's: "
        "`reckeeper.example.org,server`.",
        shown="none: this machine's own names",
    )  # fmt: skip
    webhook_allow: _Receivers = _setting(
        "RECKEEPER_WEBHOOK_ALLOW", "",
        "Hosts and networks to which the webhook may lead although they are internal, as "
        "`hooks.internal,10.1.0.0/16`.",
        shown="none: public addresses alone",
    )  # fmt: skip
    database_url: str | None = _setting(
        "DATABASE_URL", None,
        "Database to use instead of the embedded one, as `postgresql+psycopg://user@host/name` or "
        "`sqlite:////path/to/file.db`.",
        shown="the embedded database",
    )  # fmt: skip
    database_schema: _Schema = _setting(
        "RECKEEPER_DATABASE_SCHEMA", "public",
        "Schema in PostgreSQL that holds the tables; created if necessary.",
    )  # fmt: skip
    kafka_bootstrap_servers: _Brokers | None = _setting(
        "KAFKA_BOOTSTRAP_SERVERS", None,
        "Brokers through which interactions come in, as `host:9092,other:9092`.",
        shown="none: straight into the database",
    )  # fmt: skip
    kafka_topic: _Topic = _setting(
        "RECKEEPER_KAFKA_TOPIC", "user_interactions",
        "Topic of the interactions; dead letters go to the one with `.dlq` appended to its name.",
    )  # fmt: skip
    kafka_group: str = _setting(
        "RECKEEPER_KAFKA_GROUP", "reckeeper", "Consumer group of the workers."
    )
    kafka_partitions: _Count = _setting(
        "RECKEEPER_KAFKA_PARTITIONS", 6, "Partitions of the topic, if Reckeeper creates it."
    )
    kafka_retention_hours: _Count = _setting(
        "RECKEEPER_KAFKA_RETENTION_HOURS", 168,
        "Hours for which the topic keeps messages, if Reckeeper creates it.",
    )  # fmt: skip
    kafka_fields: _Fields | None = _setting(
        "RECKEEPER_KAFKA_FIELDS", None,
        "Where the fields are in a topic of another format, as "
        "`user_id=customer.id,item_id=sku,interaction_type='click',occurred_at=ts:ms`.",
        shown="the format of Reckeeper",
    )  # fmt: skip
    kafka_max_lag: _Count = _setting(
        "RECKEEPER_KAFKA_MAX_LAG", 100_000,
        "Messages that the workers may be behind before they count as not ready.",
    )  # fmt: skip
    demo: bool = _setting(
        "RECKEEPER_DEMO", True,
        "Load the demo data when the embedded database is empty; `0` starts empty.", shown="1",
    )  # fmt: skip
    retrain_schedule: str | None = _setting(
        "RECKEEPER_RETRAIN_SCHEDULE", None,
        "When to retrain by itself: a cron expression, such as `0 3 * * 0` (Sundays at 3).",
        shown="never",
    )  # fmt: skip
    timezone: _Timezone = _setting(
        "RECKEEPER_TIMEZONE", "UTC", "Time zone in which the schedule is read."
    )
    interaction_weights: _Weights = _setting(
        "RECKEEPER_INTERACTION_WEIGHTS", "click=1,watchlist_add=2",
        "Interaction types that are accepted, and the weight of each in training.",
    )  # fmt: skip
    prediction_cell_limit: Annotated[int, Field(ge=0)] = _setting(
        "RECKEEPER_PREDICTION_CELL_LIMIT", 5_000_000,
        "Users times items up to which the pickle carries all predicted ratings.",
    )  # fmt: skip
    job_timeout_seconds: _Count = _setting(
        "RECKEEPER_JOB_TIMEOUT_SECONDS", 86_400, "Seconds after which a job is stopped."
    )
    training_memory_bytes: _Count | None = _setting(
        "RECKEEPER_TRAINING_MEMORY_BYTES", None,
        "Bytes of memory that a job may need by its estimate; a larger job is refused.",
        shown="what is free",
    )  # fmt: skip
    poll_seconds: _Pause = _setting(
        "RECKEEPER_POLL_SECONDS", 0.25,
        "Seconds between two looks of a process for a new active version and the progress of jobs, "
        "at most 0.4; the policy is read every second time, schedule and notices every fourth.",
    )  # fmt: skip
    api_key: str | None = _setting(
        "RECKEEPER_API_KEY", None,
        "Key that the command line and the Python client send, and a server that fetches versions "
        "from another.",
        shown="none", is_secret=True,
    )  # fmt: skip
    worker_secret: _Key | None = _setting(
        "RECKEEPER_WORKER_SECRET", None,
        "What the server proves itself to the worker with, 16 characters or more; the same in "
        "both, where they share no data folder.",
        shown="`worker.secret` in the data folder, made at first", is_secret=True,
    )  # fmt: skip
    audit_key: _Key | None = _setting(
        "RECKEEPER_AUDIT_KEY", None,
        "Key of the audit trail's chain, 16 characters or more; the same in all processes.",
        shown="`audit.key` in the data folder, made at first", is_secret=True,
    )  # fmt: skip
    backup_passphrase: _Key | None = _setting(
        "RECKEEPER_BACKUP_PASSPHRASE", None,
        "Encrypts the key of the audit trail in backups, 16 characters or more.",
        shown="none: backups leave the key out", is_secret=True,
    )  # fmt: skip
    versions_kept: Annotated[int, Field(ge=2)] = _setting(
        "RECKEEPER_VERSIONS_KEPT", 10,
        "Model versions kept; the oldest inactive ones beyond are deleted after a retrain.",
    )  # fmt: skip
    kafka_options: Annotated[Mapping[str, str], NoDecode] = _setting(
        "KAFKA_*", dict,
        "What a cluster asks for, by librdkafka's own names: `KAFKA_SASL_PASSWORD` is its "
        "`sasl.password`. Those of SASL, TLS, client, broker and socket are taken.",
        shown="none", is_secret=True,
    )  # fmt: skip

    @property
    def uses_kafka(self) -> bool:
        """Whether interactions come in through Kafka."""
        return self.kafka_bootstrap_servers is not None

    @property
    def is_local(self) -> bool:
        """Whether the processes listen where nobody reaches them from another machine."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def without_folders(self, text: str) -> str:
        """Return a text that names files as they are called in the data or the model folder.

        Where these are is for the log, and for who works on the machine itself.
        """
        told = {self.data_dir: "the data folder", self.model_dir: "the model folder"}
        said = {
            str(form): words
            for folder, words in told.items()
            for form in (folder.absolute(), folder.resolve())
        }
        for place in sorted(said, key=len, reverse=True):
            pattern = rf"(?<![\w.-]){re.escape(place)}"
            text = re.sub(rf"{pattern}/(?=[\w.])", "", text)
            text = re.sub(rf"{pattern}(?![\w/-])", said[place], text)
        return text

    @property
    def is_embedded(self) -> bool:
        """Whether the database is the one that Reckeeper makes for itself."""
        return self.database_url is None

    @classmethod
    def variables(cls) -> tuple[Variable, ...]:
        """Describe the environment variables, in the order in which they are documented."""
        described = []
        for name, field in cls.model_fields.items():
            extra: Any = field.json_schema_extra
            described.append(
                Variable(
                    name,
                    str(field.validation_alias),
                    extra["shown"],
                    field.description or "",
                    extra["is_secret"],
                )
            )
        return tuple(described)

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
        source = EnvSettingsSource(cls)
        source.env_vars = {name: text for name, given in environ.items() if (text := given.strip())}
        options = _kafka_options({name: text or "" for name, text in source.env_vars.items()})
        try:
            return cls(**source() | {"KAFKA_*": options})
        except ValidationError as exc:
            raise ConfigError(_sentence(exc.errors()[0])) from exc

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read nothing by itself: what `from_env` hands over is all there is."""
        return (init_settings,)

    def replaced(self, **changes: Any) -> "Settings":
        """Return these settings with some fields changed, which are taken as they are."""
        return self.model_copy(update=changes)

    def to_env(self) -> dict[str, str]:
        """Return the variables that make `from_env` give these settings again.

        What is not set is an empty variable: put over another environment,
        these settings hold.
        """
        environ = {}
        for variable in self.variables():
            value = getattr(self, variable.field)
            if variable.field == "kafka_options":
                for name, option in value.items():
                    environ[f"KAFKA_{name.upper().replace('.', '_')}"] = option
                continue
            if value is None:
                value = ""
            elif isinstance(value, tuple):
                value = ",".join(value)
            elif isinstance(value, Mapping):
                value = ",".join(f"{name}={part}" for name, part in value.items())
            environ[variable.env] = str(int(value) if isinstance(value, bool) else value)
        return environ

    def __repr__(self) -> str:
        shown = {
            variable.field: getattr(self, variable.field)
            for variable in self.variables()
            if variable.field != "database_url" and not variable.is_secret
        }
        return (
            f"Settings({json.dumps(shown, default=str)}, database_url={self.masked_database_url!r})"
        )

    __str__ = __repr__

    @property
    def masked_database_url(self) -> str | None:
        """The database's URL with its password hidden."""
        if self.database_url is None:
            return None
        # What has no scheme is no URL, and is shown in the message that says so.
        before = r"(://[^:/@]*)" if "://" in self.database_url else r"([^:/@]*)"
        masked = re.sub(f"{before}:.*@", r"\1:***@", self.database_url)
        secrets = r"([?&][^=&]*(?:pass|pwd|secret|token|key)[^=&]*=)[^&]*"
        return re.sub(secrets, r"\1***", masked, flags=re.IGNORECASE)


def _sentence(finding: ErrorDetails) -> str:
    """Say what is wrong with which variable, and what to do."""
    env = finding["loc"][0]
    secrets = {variable.env for variable in Settings.variables() if variable.is_secret}
    shown = "***" if env in secrets else repr(finding["input"])
    context = finding.get("ctx", {})
    template = _WORDS.get(finding["type"])
    words = finding["msg"] if template is None else template.format_map(context)
    return f"{env}={shown} cannot be used: {context.get('error', words)}. Correct it or unset it."
