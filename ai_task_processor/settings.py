"""The configuration: the only reader of the environment, of ``.env`` and of secret files."""

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BeforeValidator, Field, PrivateAttr, SecretStr, ValidationError
from pydantic_settings import BaseSettings, DotEnvSettingsSource, NoDecode, SettingsConfigDict

from ai_task_processor.domain.amount import USD, Unit, window_key
from ai_task_processor.domain.confidential import Confidential
from ai_task_processor.domain.errors import ConfigurationError
from ai_task_processor.domain.proxies import Proxies, Proxy, proxy_at, words_of
from ai_task_processor.ops.address import url_here
from ai_task_processor.providers.prices import DEAREST
from ai_task_processor.spelling import misspelt

PLACEHOLDER_KEY = "your_openai_api_key_here"
"""What example files hold in place of a key; it turns mock processing on."""

INLINE_COMMENT = re.compile(r"\s+#.*$", re.DOTALL)
DAY = 86_400.0


def _without_comment(value: object) -> object:
    """Drop an inline comment, which reaches us where a tool passes a line of an env file on as it is."""
    return INLINE_COMMENT.sub("", value).strip() if isinstance(value, str) else value


def _as_list(value: object) -> object:
    """Accept a JSON list as well as ``a,b``."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text.startswith("["):
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            message = 'give a JSON list like ["a", "b"], or a,b'
            raise ValueError(message) from error
    return [part.strip() for part in text.split(",") if part.strip()]


def _as_object(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value, parse_float=Decimal)
    except json.JSONDecodeError as error:
        message = 'give a JSON object like {"my-model": 0.02}'
        raise ValueError(message) from error


def _as_lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _as_upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


Clean = BeforeValidator(_without_comment)
Text = Annotated[str, Clean]
Flag = Annotated[bool, Clean]
Count = Annotated[int, Field(ge=0), Clean]
Positive = Annotated[int, Field(ge=1), Clean]
Port = Annotated[int, Field(ge=0, le=65_535), Clean]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False), Clean]
Grace = Annotated[float, Field(ge=0, allow_inf_nan=False), Clean]
Price = Annotated[Decimal, Field(ge=0, le=1_000_000, allow_inf_nan=False), Clean]
Dollars = Annotated[Decimal, Field(ge=0, le=1_000_000, allow_inf_nan=False), Clean]
Priced = Annotated[Mapping[str, Price], NoDecode, BeforeValidator(_as_object), Clean]
Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_as_list), Clean]

FEATURES = ("claim", "bulk")
WINDOWS = ("minute", "hour", "day", "week", "month")
Mode = Literal["openai", "ollama", "hybrid", "local", "mock"]
ProcessingMode = Annotated[Literal[Mode, "auto"], BeforeValidator(_as_lower), Clean]
Level = Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], BeforeValidator(_as_upper), Clean]


class Settings(BaseSettings):
    """Every setting: its environment variable is its name in capitals, its description is its documentation."""

    model_config = SettingsConfigDict(
        env_file=".env",
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    _misspelt: Mapping[str, str] = PrivateAttr(default_factory=dict)

    # Task API
    api_base_url: Text = Field("", description="address of the application that collects the tasks")
    ory_project_slug: Text = Field("", description="Ory project whose token endpoint is used")
    oauth2_token_url: Text = Field("", description="token endpoint, when it is not Ory's; goes before ORY_PROJECT_SLUG")
    oauth2_client_id: Text = Field("", description="OAuth2 client id")
    oauth2_client_secret: SecretStr = Field(SecretStr(""), description="OAuth2 client secret")
    oauth2_client_secret_file: Text = Field("", description="file that holds OAUTH2_CLIENT_SECRET")
    oauth2_scope: Text = Field("read write", description="scope asked for")
    oauth2_audience: Text = Field("", description="audience asked for, where the server wants one")
    oauth2_auth_method: Annotated[Literal["client_secret_basic", "client_secret_post"], Clean] = Field(
        "client_secret_basic", description="how the client proves itself to the token endpoint"
    )
    request_timeout: Seconds = Field(30, description="seconds until a request to the Task API is given up")
    polling_interval_seconds: Seconds = Field(30, description="seconds between polls while there is nothing to do")
    unknown_task_types: Annotated[Literal["leave", "fail"], BeforeValidator(_as_lower), Clean] = Field(
        "leave", description="what happens to tasks of a type that nothing here handles"
    )
    result_format: Annotated[Literal["vector", "detailed"], BeforeValidator(_as_lower), Clean] = Field(
        "vector", description="bare vector, or an object that also names model, provider and usage"
    )
    claim_tasks: Flag = Field(default=False, description="set tasks to in_progress before work on them begins")
    api_features: Annotated[str, BeforeValidator(_as_lower), Clean] = Field(
        "auto", description="optional routes of the Task API, used where it has them: auto, none, or claim,bulk"
    )
    claim_lease_seconds: Annotated[int, Field(ge=1, le=86_400), Clean] = Field(
        300, description="seconds for which tasks are claimed where the Task API has that route; renewed while held"
    )
    fetch_limit: Positive = Field(1_000, description="new tasks asked for in one poll, at most")
    hold_limit: Positive = Field(10_000, description="tasks that wait in the journal, at most")
    delivery_concurrency: Positive = Field(32, description="results sent to the Task API at once, at most")

    # Providers
    processing_mode: ProcessingMode = Field(
        "auto",
        description="who embeds: openai, ollama, hybrid, local, mock, or auto: openai if there is an OPENAI_API_KEY, "
        "else local",
    )
    openai_api_key: SecretStr = Field(
        SecretStr(""), description=f"key for OpenAI or a compatible server; {PLACEHOLDER_KEY} turns mock mode on"
    )
    openai_api_key_file: Text = Field("", description="file that holds OPENAI_API_KEY")
    openai_base_url: Text = Field("https://api.openai.com/v1", description="OpenAI, or any compatible server")
    openai_timeout: Seconds = Field(60, description="seconds until a request to OpenAI is given up")
    supported_models: Names = Field(("nomic-embed-text",), description="models that Ollama serves here, JSON or a,b")
    ollama_base_url: Text = Field("http://localhost:11434", description="address of Ollama")
    ollama_timeout: Seconds = Field(120, description="seconds until a request to Ollama is given up")
    ollama_model_download_timeout: Seconds = Field(600, description="seconds until the pull of a model is given up")
    hybrid_fallback_model: Text = Field(
        "text-embedding-3-small", description="OpenAI's model while Ollama is away; none = wait for Ollama"
    )
    default_embedding_model: Text = Field(
        "", description="model for tasks that name none; empty is OpenAI's small one, else the first supported"
    )
    long_input: Annotated[Literal["fail", "truncate"], BeforeValidator(_as_lower), Clean] = Field(
        "fail", description="what happens to a text that is too long for its model"
    )
    local_model_path: Text = Field(
        "", description="ONNX or GGUF model for local mode, a folder or a file; empty is the one of wordllama"
    )
    mock_latency_seconds: Grace = Field(0, description="how long the mock provider takes for a batch")
    concurrency_limit: Positive = Field(5, description="provider requests at once, at most")
    batch_size: Annotated[int, Field(ge=1, le=2_048), Clean] = Field(64, description="texts in one provider request")

    # Reliability
    max_retries: Count = Field(3, description="repeats of a failed provider request before its tasks wait their turn")
    retry_backoff_factor: Annotated[float, Field(ge=1, le=10), Clean] = Field(
        2.0, description="by how much the wait between repeats grows"
    )
    max_attempts: Positive = Field(10, description="how often a task may fail by itself before it is failed")
    circuit_breaker_threshold: Positive = Field(5, description="failures in a row that open a circuit breaker")
    circuit_breaker_recovery_seconds: Seconds = Field(
        30, description="seconds until an open breaker lets a probe through"
    )
    shutdown_grace_seconds: Grace = Field(30, description="seconds in which a stop finishes what is held")
    state_url: SecretStr = Field(
        SecretStr("sqlite:///data/state.db"),
        description="where the journal lives: a file (absolute: sqlite:////app/data/state.db), or "
        "postgresql://user:password@host/database, which replicas may share",
    )
    state_url_file: Text = Field("", description="file that holds STATE_URL")
    embedding_cache_mb: Count = Field(256, description="megabytes of vectors kept for texts that come again; 0 is off")
    lease_seconds: Annotated[float, Field(ge=1, le=3_600, allow_inf_nan=False), Clean] = Field(
        15, description="seconds after which another replica takes over what a dead one held"
    )
    state_retention_hours: Seconds = Field(24, description="hours for which reported tasks are remembered")

    # Limits
    rate_limit_enabled: Flag = Field(default=True, description="whether the limits below hold")
    rate_limit_strategy: Annotated[Literal["rolling", "fixed"], BeforeValidator(_as_lower), Clean] = Field(
        "rolling", description="the last 60 s, hour …, or calendar windows"
    )
    rate_limit_timezone: Text = Field("UTC", description="time zone of calendar windows")
    rate_limit_per_minute: Count = Field(0, description="tasks sent to providers in a minute; 0 is no limit")
    rate_limit_per_hour: Count = Field(0, description="the same in an hour")
    rate_limit_per_day: Count = Field(0, description="the same in a day")
    rate_limit_per_week: Count = Field(0, description="the same in a week")
    rate_limit_per_month: Count = Field(0, description="the same in a month")
    token_limit_per_minute: Count = Field(0, description="tokens that providers count in a minute; 0 is no limit")
    token_limit_per_hour: Count = Field(0, description="the same in an hour")
    token_limit_per_day: Count = Field(0, description="the same in a day")
    token_limit_per_week: Count = Field(0, description="the same in a week")
    token_limit_per_month: Count = Field(0, description="the same in a month")
    cost_limit_per_minute: Dollars = Field(
        Decimal(0), description="US dollars that providers cost in a minute, like 0.5; 0 is no limit"
    )
    cost_limit_per_hour: Dollars = Field(Decimal(0), description="the same in an hour")
    cost_limit_per_day: Dollars = Field(Decimal(0), description="the same in a day")
    cost_limit_per_week: Dollars = Field(Decimal(0), description="the same in a week")
    cost_limit_per_month: Dollars = Field(Decimal(0), description="the same in a month")
    model_prices: Priced = Field(
        {},
        description='US dollars for a million tokens, before the prices that ship: {"my-model": 0.02}',
    )
    unknown_model_price: Price = Field(
        DEAREST, description="US dollars for a million tokens of a model without a known price"
    )
    rate_limit_storage_path: Text = Field("", description="older name for the SQLite file of STATE_URL")

    # Network
    https_proxy: SecretStr = Field(
        SecretStr(""),
        description="proxy on the way to https addresses, like http://proxy:3128 or http://user:password@proxy:3128",
    )
    http_proxy: SecretStr = Field(SecretStr(""), description="the same for http addresses")
    no_proxy: Text = Field(
        "",
        description="hosts, .domains, addresses and networks (10.0.0.0/8) that are asked without a proxy, as a,b; "
        "this machine always is",
    )

    # Operation
    metrics_host: Text = Field("127.0.0.1", description="interface of the status page, /health, /ready and /metrics")
    metrics_port: Port = Field(
        8001, description="port of the status page, /health, /ready and /metrics; 0 picks a free one"
    )
    poll_token: SecretStr = Field(
        SecretStr(""), description="secret of those who may ask for POST /poll, /pause or /resume; none turns that off"
    )
    poll_token_file: Text = Field("", description="file that holds POLL_TOKEN")
    log_level: Level = Field("INFO", description="least level that is logged: DEBUG, INFO, WARNING or ERROR")
    log_format: Annotated[Literal["auto", "json", "console"], BeforeValidator(_as_lower), Clean] = Field(
        "auto", description="form of the log: json, console, or auto: console on a terminal, json elsewhere"
    )

    @property
    def token_url(self) -> str:
        """The token endpoint."""
        return self.oauth2_token_url or f"https://{self.ory_project_slug}.projects.oryapis.com/oauth2/token"

    @property
    def has_placeholder_key(self) -> bool:
        """Whether the OpenAI key is the one of the example file."""
        return self.openai_api_key.get_secret_value() == PLACEHOLDER_KEY

    @property
    def mode(self) -> Mode:
        """The mode that runs: ``auto`` resolved, and mock in place of OpenAI while the key is a placeholder."""
        if self.processing_mode in {"openai", "hybrid", "auto"} and self.has_placeholder_key:
            return "mock"
        if self.processing_mode == "auto":
            return "openai" if self.openai_api_key.get_secret_value() else "local"
        return self.processing_mode

    @property
    def wanted_features(self) -> tuple[str, ...]:
        """The optional routes of the Task API that are used where it has them."""
        named = {"auto": FEATURES, "none": ()}.get(self.api_features)
        return tuple(part.strip() for part in self.api_features.split(",")) if named is None else named

    @property
    def default_model(self) -> str:
        """The model of tasks that name none."""
        small = "text-embedding-3-small"
        return self.default_embedding_model or (small if self.mode == "openai" else self.supported_models[0])

    @property
    def fallback_model(self) -> str | None:
        """The model that OpenAI uses in place of Ollama's; None means waiting for Ollama."""
        return None if self.hybrid_fallback_model.lower() == "none" else self.hybrid_fallback_model

    @property
    def state_location(self) -> str:
        """The URL of the state, with the older setting honoured."""
        if self.rate_limit_storage_path and "state_url" not in self.model_fields_set:
            return f"sqlite:///{self.rate_limit_storage_path}"
        return self.state_url.get_secret_value()

    @property
    def state_shown(self) -> str:
        """The URL of the state without a password."""
        scheme, _, rest = self.state_location.partition("://")
        return f"{scheme}://{rest.partition('?')[0].rpartition('@')[2]}"

    @property
    def misspelt(self) -> Mapping[str, str]:
        """Names that were given and mean nothing, and for each the setting whose name is one slip of the pen away."""
        return self._misspelt

    def read_beside(self, given: Iterable[str]) -> "Settings":
        """The same, knowing which names were ``given`` where settings are looked for."""
        known = {name.upper() for name in Settings.model_fields}
        copy = self.model_copy()
        copy._misspelt = misspelt({name.upper() for name in given}, known)  # noqa: SLF001  # of our own kind
        return copy

    @property
    def proxies(self) -> Proxies:
        """The proxies, and who is asked without one. Raises ValueError where there is a fault in them."""
        return Proxies(_proxy(self, "https_proxy"), _proxy(self, "http_proxy"), words_of(self.no_proxy))

    @property
    def proxies_shown(self) -> Mapping[str, str]:
        """The address of each proxy without user and password, by its setting."""
        proxies = self.proxies
        return {proxy.setting: proxy.url for proxy in (proxies.https, proxies.http) if proxy}

    @property
    def is_local_api(self) -> bool:
        """Whether the Task API is on this machine."""
        return urlsplit(self.api_base_url).hostname in {"localhost", "127.0.0.1", "::1"}

    @property
    def retention_seconds(self) -> float:
        """How long reported tasks are remembered, in seconds."""
        return self.state_retention_hours * 3_600

    @property
    def embedding_cache_bytes(self) -> int:
        """How much of the state is kept for the cache of embeddings."""
        return self.embedding_cache_mb * 1_048_576

    @property
    def limits(self) -> Mapping[str, int]:
        """The limits that hold, by window; money as :data:`~ai_task_processor.domain.amount.USD` says."""
        asked = {
            window_key(unit, window): int(getattr(self, f"{name}_per_{window}") * scale)
            for unit, name, scale in _LIMITED
            for window in WINDOWS
        }
        return {key: limit for key, limit in asked.items() if limit and self.rate_limit_enabled}

    @property
    def limits_shown(self) -> Mapping[str, float]:
        """The limits that hold, for people: money in US dollars."""
        return {key: limit / USD if key.startswith("cost") else limit for key, limit in self.limits.items()}


_LIMITED: tuple[tuple[Unit, str, int], ...] = (
    ("tasks", "rate_limit", 1),
    ("tokens", "token_limit", 1),
    ("cost", "cost_limit", USD),
)
"""What is limited, the beginning of its settings, and what one of them is in the unit that is counted."""

SECRETS = ("oauth2_client_secret", "openai_api_key", "state_url", "poll_token")
"""Fields whose values are never shown; each can also come from the file that its ``_FILE`` twin names."""

PROXIES = ("https_proxy", "http_proxy")

HIDDEN = frozenset({*SECRETS, *PROXIES})
"""Fields whose values are never shown as they are given: an address of a proxy may hold a password."""

LOWER_CASE = (*PROXIES, "no_proxy")
"""Fields whose variables are also written in small letters, which then go first, as for curl and pip."""

TRACE_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

ACCESS_FIELDS = frozenset({"metrics_host", "metrics_port", "poll_token", "poll_token_file"})

STATE_FIELDS = frozenset({"state_url", "state_url_file", "rate_limit_storage_path"})

ADJUSTABLE = frozenset(
    {"polling_interval_seconds", "supported_models", "log_level", "rate_limit_enabled"}
    | {f"{name}_per_{window}" for _, name, _ in _LIMITED for window in WINDOWS}
)
"""Fields that may change while the daemon runs."""

SCHEMES = {
    "api_base_url": ("http", "https"),
    "oauth2_token_url": ("http", "https"),
    "openai_base_url": ("http", "https"),
    "ollama_base_url": ("http", "https"),
}


def load_settings(env_file: Path | None = Path(".env"), *, before: Settings | None = None, **given: object) -> Settings:
    """Read the configuration; ``given`` overrides what the environment says.

    Where it is to take the place of one that runs, ``before``, what cannot be changed by that is a fault too. Raises
    ConfigurationError with every fault at once.
    """
    settings, faults = _provisional(env_file, given)
    faults |= {name: fault for name, fault in _cross_faults(settings) if name not in faults}
    if before:
        faults |= {name: fault for name, fault in _restart_faults(before, settings) if name not in faults}
    if faults:
        raise _error(faults, *_unread(env_file, settings))
    return settings.read_beside(_names_given(env_file))


def load_state_location(env_file: Path | None = Path(".env")) -> str:
    """Read where the state is, whatever else is missing; raises ConfigurationError."""
    settings, faults = _provisional(env_file, {})
    faults = {name: fault for name, fault in (faults | dict(_state_faults(settings))).items() if name in STATE_FIELDS}
    if faults:
        raise _error(faults)
    return settings.state_location


def changes_between(before: Settings, after: Settings) -> tuple[str, ...]:
    """What is different, in words; never a secret."""
    return tuple(f"{name.upper()}: {_change(name, before, after)}" for name in _different(before, after))


def traces_wanted() -> bool:
    """Whether OpenTelemetry's standard variables, all of which its SDK reads itself, want traces to be sent."""
    standard = {name: value.strip() for name, value in os.environ.items() if name.startswith("OTEL_")}
    off = standard.get("OTEL_SDK_DISABLED", "").lower() == "true" or standard.get("OTEL_TRACES_EXPORTER") == "none"
    return not off and any(standard.get(name) for name in TRACE_ENDPOINTS)


class Access(Confidential, frozen=True):
    """Where the running daemon is asked for something, and the secret of those who may."""

    url: str
    token: str


def load_access(env_file: Path | None = Path(".env")) -> Access:
    """Read how the running daemon is asked for something, whatever else is missing; raises ConfigurationError."""
    settings, faults = _provisional(env_file, {})
    faults |= {name: fault for name, fault in _access_faults(settings) if name not in faults}
    faults = {name: fault for name, fault in faults.items() if name in ACCESS_FIELDS}
    if faults:
        raise _error(faults)
    return Access(url_here(settings.metrics_host, settings.metrics_port), settings.poll_token.get_secret_value())


def load_ops_url(env_file: Path | None = Path(".env")) -> str:
    """Read where the running daemon answers, whatever else is missing; raises ConfigurationError."""
    settings, faults = _provisional(env_file, {})
    faults |= {name: fault for name, fault in _access_faults(settings) if name not in faults}
    faults = {name: fault for name, fault in faults.items() if name in {"metrics_host", "metrics_port"}}
    if faults:
        raise _error(faults)
    return url_here(settings.metrics_host, settings.metrics_port)


def _provisional(env_file: Path | None, given: Mapping[str, object]) -> tuple[Settings, dict[str, str]]:
    """Read what can be read, defaults in place of what cannot; answer the faults beside it."""
    faults: dict[str, str] = {}
    try:
        settings = _read(env_file, given)
    except ValidationError as error:
        faults = dict(_field_faults(error))
        settings = _read(env_file, {**given, **{name: Settings.model_fields[name].default for name in faults}})
    settings, secret_faults = _with_secrets_from_files(settings)
    return settings, faults | secret_faults


def _error(faults: Mapping[str, str], *more: str) -> ConfigurationError:
    return ConfigurationError([*(f"{name.upper()}: {fault}" for name, fault in faults.items()), *more])


def _unread(env_file: Path | None, settings: Settings) -> Iterator[str]:
    """Where everything is missing the file may only lie in another folder."""
    if not settings.api_base_url and not (env_file and env_file.is_file()):
        yield f"no settings were read from a file: there is no .env in {Path.cwd()}, and --env-file names no other"


def _read(env_file: Path | None, given: Mapping[str, object]) -> Settings:
    try:
        return Settings(_env_file=env_file, **{**_in_lower_case(), **given})  # type: ignore[call-arg, arg-type]  # pydantic takes both
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigurationError([f"{str(env_file)!r} cannot be read: {reason}"]) from error


def _names_given(env_file: Path | None) -> Iterable[str]:
    return {*os.environ, *DotEnvSettingsSource(Settings, env_file=env_file).env_vars}


def _in_lower_case() -> dict[str, object]:
    return {name: os.environ[name] for name in LOWER_CASE if os.environ.get(name)}


def _field_faults(error: ValidationError) -> Iterator[tuple[str, str]]:
    for fault in error.errors(include_url=False):
        name = str(fault["loc"][0])
        shown = "(hidden)" if name in HIDDEN else repr(_without_comment(fault["input"]))
        yield name, f"{shown} cannot be used: {fault['msg'].removeprefix('Value error, ')}"


def _with_secrets_from_files(settings: Settings) -> tuple[Settings, dict[str, str]]:
    """Put the content of ``*_FILE`` in place of the secret; answer the faults met on the way."""
    found: dict[str, SecretStr] = {}
    faults: dict[str, str] = {}
    for name in SECRETS:
        path = str(getattr(settings, f"{name}_file"))
        if not path:
            continue
        if name in settings.model_fields_set:
            faults[f"{name}_file"] = f"give either {name.upper()} or {name.upper()}_FILE, not both"
            continue
        try:
            found[name] = SecretStr(_read_secret(path))
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            faults[f"{name}_file"] = f"{path!r} cannot be read: {reason}"
    fields_set = settings.model_fields_set | set(found)
    values = {name: getattr(settings, name) for name in Settings.model_fields} | found
    return Settings.model_construct(_fields_set=fields_set, **values), faults


def _read_secret(path: str) -> str:
    secret = Path(path).read_text(encoding="utf-8").strip()
    if not secret:
        message = "the file is empty"
        raise ValueError(message)
    return secret


def _cross_faults(settings: Settings) -> Iterator[tuple[str, str]]:
    """What is missing or does not fit together."""
    yield from _missing(settings)
    for name, schemes in SCHEMES.items():
        fault = _url_fault(str(getattr(settings, name)), schemes)
        if fault:
            yield name, fault
    yield from _provider_faults(settings)
    yield from _proxy_faults(settings)
    yield from _state_faults(settings)
    try:
        ZoneInfo(settings.rate_limit_timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        yield "rate_limit_timezone", f"{settings.rate_limit_timezone!r} is no time zone; give one like Europe/Berlin"
    if not {*settings.wanted_features} <= {*FEATURES}:
        yield "api_features", f"{settings.api_features!r} cannot be used; give auto, none, claim, bulk, or claim,bulk"
    if settings.hold_limit < settings.batch_size:
        yield (
            "hold_limit",
            f"{settings.hold_limit} is below BATCH_SIZE={settings.batch_size}; no batch would ever be full",
        )


def _restart_faults(before: Settings, after: Settings) -> Iterator[tuple[str, str]]:
    for name in _different(before, after):
        if name not in ADJUSTABLE:
            yield name, f"{_change(name, before, after)}; a restart is needed for that"


def _different(before: Settings, after: Settings) -> Iterator[str]:
    return (name for name in Settings.model_fields if getattr(before, name) != getattr(after, name))


def _change(name: str, before: Settings, after: Settings) -> str:
    if name in HIDDEN:
        return "changed"
    return f"{_told(getattr(before, name))} became {_told(getattr(after, name))}"


def _told(value: object) -> str:
    """As it would stand in `.env`."""
    match value:
        case bool():
            return str(value).lower()
        case tuple():
            return ",".join(value)
        case float() | Decimal():
            return f"{value:g}" if isinstance(value, float) else f"{value:f}"
        case _:
            return str(value) or "none"


def _missing(settings: Settings) -> Iterator[tuple[str, str]]:
    if not settings.api_base_url:
        yield "api_base_url", "is missing; give the address of your API, like https://api.example.com"
    if not settings.oauth2_token_url and not settings.ory_project_slug:
        yield (
            "ory_project_slug",
            "is missing; give the slug of your Ory project, or OAUTH2_TOKEN_URL for another server",
        )
    if not settings.oauth2_client_id:
        yield "oauth2_client_id", "is missing; give the id of an OAuth2 client that may use client_credentials"
    if not settings.oauth2_client_secret.get_secret_value() and not settings.oauth2_client_secret_file:
        yield "oauth2_client_secret", "is missing; give the client's secret, or OAUTH2_CLIENT_SECRET_FILE"


def _url_fault(value: str, schemes: tuple[str, ...]) -> str | None:
    if not value:
        return None
    try:
        parts = urlsplit(value)
        usable = parts.scheme in schemes and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return "is not an address; give one like https://host:port/path"
    if parts.username or parts.password:
        return "holds a user name or password; give the address without them"
    if not usable:
        return f"{value!r} is not an address; give one like https://host:port/path"
    return None


def _provider_faults(settings: Settings) -> Iterator[tuple[str, str]]:
    has_key = settings.openai_api_key.get_secret_value() or settings.openai_api_key_file
    if settings.mode in {"openai", "hybrid"} and not has_key:
        yield "openai_api_key", f"is missing; PROCESSING_MODE={settings.mode} needs it, or OPENAI_API_KEY_FILE"
    if not settings.supported_models or not all(settings.supported_models):
        yield "supported_models", 'is empty; name at least one model, like ["nomic-embed-text"]'


def _proxy_faults(settings: Settings) -> Iterator[tuple[str, str]]:
    for name in PROXIES:
        try:
            _proxy(settings, name)
        except ValueError as error:
            yield name, str(error)


def _proxy(settings: Settings, name: str) -> Proxy | None:
    address = getattr(settings, name).get_secret_value()
    return proxy_at(address, setting=name.upper()) if address else None


def _access_faults(settings: Settings) -> Iterator[tuple[str, str]]:
    if not settings.poll_token.get_secret_value() and not settings.poll_token_file:
        yield "poll_token", "is missing; give the one that the daemon has, or POLL_TOKEN_FILE"
    if not settings.metrics_port:
        yield "metrics_port", "0 lets the daemon pick any port; give it one by which it can be found"


def _state_faults(settings: Settings) -> Iterator[tuple[str, str]]:
    scheme, separator, rest = settings.state_url.get_secret_value().partition("://")
    known = scheme in {"sqlite", "postgresql", "postgres"}
    a_host = scheme == "sqlite" and not rest.startswith("/")  # two slashes: SQLite would pass over the first folder
    if not separator or not known or a_host or not rest.strip("/"):
        files = "sqlite:///data/state.db, sqlite:////absolute/path/state.db"
        yield "state_url", f"cannot be used; give {files}, or postgresql://user:password@host:5432/database"
    if settings.rate_limit_storage_path and "state_url" in settings.model_fields_set:
        yield "rate_limit_storage_path", "is the older name of STATE_URL; give one of them"
