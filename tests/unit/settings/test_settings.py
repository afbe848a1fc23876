from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path

import pytest
from dotenv import dotenv_values
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from ai_task_processor.domain.errors import ConfigurationError
from ai_task_processor.settings import (
    ADJUSTABLE,
    HIDDEN,
    PLACEHOLDER_KEY,
    Settings,
    changes_between,
    load_access,
    load_settings,
    traces_wanted,
)

REQUIRED = {
    "API_BASE_URL": "https://api.example.com",
    "ORY_PROJECT_SLUG": "slug",
    "OAUTH2_CLIENT_ID": "client",
    "OAUTH2_CLIENT_SECRET": "hunter2-secret",
}


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def load(monkeypatch: pytest.MonkeyPatch, environment: Mapping[str, str] = {}) -> Settings:
    for name, value in (REQUIRED | dict(environment)).items():
        monkeypatch.setenv(name, value)
    return load_settings()


def faults(monkeypatch: pytest.MonkeyPatch, environment: Mapping[str, str]) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load(monkeypatch, environment)
    return "\n".join(caught.value.faults)


def test_the_required_settings_suffice(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(monkeypatch)
    assert settings.token_url == "https://slug.projects.oryapis.com/oauth2/token"
    assert settings.mode == "local"
    assert settings.polling_interval_seconds == 30
    assert settings.state_location == "sqlite:///data/state.db"
    assert settings.limits == {}


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("", {"claim", "bulk"}),
        ("AUTO", {"claim", "bulk"}),
        ("none # plain", set()),
        ("bulk", {"bulk"}),
        (" claim, bulk ", {"claim", "bulk"}),
    ],
)
def test_features_are_all_or_none_or_named(monkeypatch: pytest.MonkeyPatch, given: str, wanted: set[str]) -> None:
    assert {*load(monkeypatch, {"API_FEATURES": given}).wanted_features} == wanted


def test_a_name_that_is_nearly_a_setting_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("COST_LIMIT_PER_DYA=5\nDATABASE_URL=of_another\nbatch_size=8\n", encoding="utf-8")
    settings = load(monkeypatch, {"RATE_LIMIT_PER_MINUT": "3"})
    assert settings.misspelt == {
        "COST_LIMIT_PER_DYA": "COST_LIMIT_PER_DAY",
        "RATE_LIMIT_PER_MINUT": "RATE_LIMIT_PER_MINUTE",
    }
    assert settings.batch_size == 8


def test_every_fault_is_told_at_once() -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(batch_size="many", rate_limit_strategy="sometimes", ollama_base_url="nowhere")
    told = "\n".join(caught.value.faults)
    for name in ("API_BASE_URL", "ORY_PROJECT_SLUG", "OAUTH2_CLIENT_ID", "OAUTH2_CLIENT_SECRET"):
        assert f"{name}: is missing" in told
    for name in ("BATCH_SIZE: 'many'", "RATE_LIMIT_STRATEGY: 'sometimes'", "OLLAMA_BASE_URL: 'nowhere'"):
        assert name in told


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("POLLING_INTERVAL_SECONDS", "0"),
        ("POLLING_INTERVAL_SECONDS", "nan"),
        ("CONCURRENCY_LIMIT", "0"),
        ("BATCH_SIZE", "4096"),
        ("METRICS_PORT", "70000"),
        ("RATE_LIMIT_PER_MINUTE", "-1"),
        ("API_FEATURES", "auto,claim"),
        ("API_FEATURES", "leases"),
        ("CLAIM_LEASE_SECONDS", "0"),
        ("CLAIM_LEASE_SECONDS", "2.5"),
        ("RATE_LIMIT_TIMEZONE", "Mars/Olympus"),
        ("RATE_LIMIT_TIMEZONE", "../../etc/passwd"),
        ("LOG_LEVEL", "loud"),
        ("API_BASE_URL", "ftp://files"),
        ("API_BASE_URL", "https://host:99999"),
        ("SUPPORTED_MODELS", "["),
        ("SUPPORTED_MODELS", " , "),
        ("STATE_URL", "mysql://somewhere/db"),
        ("STATE_URL", "sqlite://data/state.db"),
        ("HOLD_LIMIT", "3"),
        ("CLAIM_TASKS", "perhaps"),
        ("TOKEN_LIMIT_PER_HOUR", "0.5"),
        ("COST_LIMIT_PER_DAY", "-1"),
        ("COST_LIMIT_PER_DAY", "nan"),
        ("MODEL_PRICES", "mine=0.02"),
        ("MODEL_PRICES", '{"mine": -1}'),
        ("MODEL_PRICES", '{"mine": "dear"}'),
        ("MODEL_PRICES", "[1]"),
        ("UNKNOWN_MODEL_PRICE", "free"),
    ],
)
def test_a_bad_value_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    assert faults(monkeypatch, {name: value}).startswith(f"{name}: ")


def test_limits_of_every_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"RATE_LIMIT_PER_HOUR": "7", "TOKEN_LIMIT_PER_DAY": "1000", "COST_LIMIT_PER_MONTH": "12.5  # USD"}
    settings = load(monkeypatch, given)
    assert settings.limits == {"hour": 7, "tokens_per_day": 1000, "cost_per_month": 12_500_000_000_000}
    assert settings.limits_shown == {"hour": 7, "tokens_per_day": 1000, "cost_per_month": 12.5}
    assert load(monkeypatch, {**given, "RATE_LIMIT_ENABLED": "false"}).limits == {}


def test_prices(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(monkeypatch, {"MODEL_PRICES": '{"mine": 0.07, "ours": 0}', "UNKNOWN_MODEL_PRICE": "1"})
    assert settings.model_prices == {"mine": Decimal("0.07"), "ours": 0}
    assert settings.unknown_model_price == 1


@given(secret=st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=12))
def test_secrets_are_never_shown(secret: str) -> None:
    given_values = dict.fromkeys(HIDDEN, f"http://user:{secret}\x00@proxy:port")
    with pytest.raises(ConfigurationError) as caught:
        load_settings(None, **given_values, api_base_url=f"https://user:{secret}@host", batch_size="x")
    assert secret not in str(caught.value)
    shown = Settings(_env_file=None, openai_api_key=SecretStr(secret))  # type: ignore[call-arg]
    assert secret not in repr(shown)


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "HTTP_PROXY"])
@pytest.mark.parametrize("value", ["proxy:3128", "https://user:hunter2@proxy:3128", "socks5://user:hunter2@proxy"])
def test_what_is_no_proxy_is_refused_without_its_password(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    found = faults(monkeypatch, {name: value})
    assert found == (
        f"{name}: is no proxy; give one like http://proxy.example.com:3128 or http://user:password@host:port"
    )


def test_proxies_are_those_of_the_standard_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"HTTPS_PROXY": "http://user:hunter2@secure:3128/", "NO_PROXY": ".example.com, 10.0.0.0/8"}
    settings = load(monkeypatch, given)
    assert settings.proxies_shown == {"HTTPS_PROXY": "http://secure:3128"}
    proxy = settings.proxies.for_url("https://api.openai.com/v1")
    assert proxy is not None
    assert proxy.authorization.startswith("Basic ")
    assert settings.proxies.for_url("http://ollama:11434") is None
    assert settings.proxies.for_url("https://api.example.com") is None
    assert load(monkeypatch, {"HTTPS_PROXY": ""}).proxies_shown == {}, "an empty one counts as not given"


def test_proxies_may_be_named_in_small_letters_which_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("https_proxy", "http_proxy"):
        monkeypatch.setenv(name, "http://small:1")
    monkeypatch.setenv("no_proxy", "small.example.com")
    settings = load(monkeypatch, {"HTTPS_PROXY": "http://large:1", "NO_PROXY": "large.example.com"})
    assert settings.proxies_shown == {"HTTPS_PROXY": "http://small:1", "HTTP_PROXY": "http://small:1"}
    assert settings.no_proxy == "small.example.com"
    monkeypatch.setenv("https_proxy", "")
    assert load(monkeypatch).proxies_shown["HTTPS_PROXY"] == "http://large:1"


def test_lists_may_be_json_or_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ('["a", "b"]', "a,b", " a , b "):
        assert load(monkeypatch, {"SUPPORTED_MODELS": text}).supported_models == ("a", "b")


def test_inline_comments_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(monkeypatch, {"RATE_LIMIT_PER_MINUTE": "20   # burst", "LOG_LEVEL": "debug # noisy"})
    assert settings.limits == {"minute": 20}
    assert settings.log_level == "DEBUG"
    Path(".env").write_text("RATE_LIMIT_PER_HOUR=7 # from the file\n", encoding="utf-8")
    assert load(monkeypatch).limits == {"minute": 20, "hour": 7}


def test_a_secret_may_come_from_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("from-file\n", encoding="utf-8")
    settings = load(monkeypatch, {"OPENAI_API_KEY_FILE": str(path)})
    assert settings.openai_api_key.get_secret_value() == "from-file"
    assert settings.mode == "openai"


def test_secret_files_that_cannot_be_used_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told = faults(monkeypatch, {"OPENAI_API_KEY_FILE": str(tmp_path / "none"), "OAUTH2_CLIENT_SECRET_FILE": "x"})
    assert "OPENAI_API_KEY_FILE: " in told
    assert "No such file" in told
    assert "OAUTH2_CLIENT_SECRET_FILE: give either" in told
    assert "hunter2" not in told


@pytest.mark.parametrize(
    ("mode", "key", "expected"),
    [
        ("auto", "", "local"),
        ("auto", "sk-1", "openai"),
        ("openai", PLACEHOLDER_KEY, "mock"),
        ("hybrid", PLACEHOLDER_KEY, "mock"),
        ("OLLAMA", "", "ollama"),
        ("local", "sk-1", "local"),
        ("mock", "", "mock"),
    ],
)
def test_the_mode_follows_from_what_is_given(
    monkeypatch: pytest.MonkeyPatch, mode: str, key: str, expected: str
) -> None:
    assert load(monkeypatch, {"PROCESSING_MODE": mode, "OPENAI_API_KEY": key}).mode == expected


def test_openai_needs_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "OPENAI_API_KEY: is missing" in faults(monkeypatch, {"PROCESSING_MODE": "hybrid"})


def test_the_older_name_of_the_state_file(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(monkeypatch, {"RATE_LIMIT_STORAGE_PATH": "/srv/limits.db"})
    assert settings.state_location == "sqlite:////srv/limits.db"


@pytest.mark.parametrize("url", ["postgresql://user:hidden@host:5432/name?password=hidden", "postgres://host/name"])
def test_the_state_may_be_in_a_database(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    settings = load(monkeypatch, {"STATE_URL": url})
    assert settings.state_location == url
    assert "hidden" not in settings.state_shown
    assert settings.state_shown.split("://")[1].startswith("host")


def test_another_database_is_refused_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    found = faults(monkeypatch, {"STATE_URL": "mysql://user:hidden@host/name"})
    assert "postgresql://user:password@host:5432/database" in found
    assert "hidden" not in found


def test_the_example_file_shows_every_setting_and_its_default() -> None:
    path = Path(__file__).parents[3] / ".env.example"
    text = path.read_text(encoding="utf-8")
    shown = dotenv_values(path)
    for name, field in Settings.model_fields.items():
        if f"\n# {name.upper()}=\n" in text:
            assert field.default in {"", SecretStr("")}, name
        elif name.upper() not in REQUIRED:
            example = Settings(_env_file=None, **{name: shown[name.upper()]})  # type: ignore[arg-type, call-arg]
            assert getattr(example, name) == field.default, name
    assert set(shown) <= {name.upper() for name in Settings.model_fields}


def test_the_example_file_is_a_usable_configuration() -> None:
    assert load_settings(Path(__file__).parents[3] / ".env.example").mode == "local"


# --- Other settings while the daemon runs


def test_what_may_change_is_taken_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    before = load(monkeypatch)
    other = {
        "RATE_LIMIT_ENABLED": "false",
        "COST_LIMIT_PER_DAY": "2.50",
        "SUPPORTED_MODELS": "a,b",
        "POLLING_INTERVAL_SECONDS": "7.5",
        "LOG_LEVEL": "error",
    }
    for name, value in other.items():
        monkeypatch.setenv(name, value)
    after = load_settings(before=before)
    assert set(changes_between(before, after)) == {
        "RATE_LIMIT_ENABLED: true became false",
        "COST_LIMIT_PER_DAY: 0 became 2.50",
        "SUPPORTED_MODELS: nomic-embed-text became a,b",
        "POLLING_INTERVAL_SECONDS: 30 became 7.5",
        "LOG_LEVEL: INFO became ERROR",
    }
    assert changes_between(after, load_settings(before=after)) == ()


@pytest.mark.parametrize("name", sorted(set(Settings.model_fields) - ADJUSTABLE))
def test_anything_else_needs_a_restart(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    before = load(monkeypatch)
    changed = before.model_copy(update={name: SecretStr("of another kind") if name in HIDDEN else "another"})
    with pytest.raises(ConfigurationError) as caught:
        load_settings(before=changed)
    (fault,) = caught.value.faults
    assert fault.startswith(f"{name.upper()}: ")
    assert fault.endswith("a restart is needed for that")
    assert "of another kind" not in fault


def test_all_faults_of_a_change_are_in_one_list(monkeypatch: pytest.MonkeyPatch) -> None:
    before = load(monkeypatch)
    monkeypatch.setenv("BATCH_SIZE", "32")
    monkeypatch.setenv("POLLING_INTERVAL_SECONDS", "often")
    monkeypatch.setenv("ORY_PROJECT_SLUG", "")
    with pytest.raises(ConfigurationError) as caught:
        load_settings(before=before)
    assert sorted(fault.partition(":")[0] for fault in caught.value.faults) == [
        "BATCH_SIZE",
        "ORY_PROJECT_SLUG",
        "POLLING_INTERVAL_SECONDS",
    ]


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    file = tmp_path / "its.env"
    file.write_bytes(b"LOG_LEVEL=\xff\xfe")
    with pytest.raises(ConfigurationError, match=r"its.env' cannot be read: it is not UTF-8"):
        load_settings(file)


def test_how_the_running_daemon_is_asked_needs_nothing_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("knock-knock\n")
    for name, value in {"METRICS_HOST": "::", "METRICS_PORT": "9000", "POLL_TOKEN_FILE": "token"}.items():
        monkeypatch.setenv(name, value)
    access = load_access()
    assert (access.url, access.token) == ("http://[::1]:9000", "knock-knock")
    assert "knock" not in repr(access)


# --- Traces


@pytest.mark.parametrize(
    ("standard", "wanted"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, False),
        ({"OTEL_SERVICE_NAME": "processor"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318", "OTEL_SDK_DISABLED": "True"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318", "OTEL_TRACES_EXPORTER": "none"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318", "OTEL_TRACES_EXPORTER": "otlp"}, True),
    ],
)
def test_traces_are_sent_where_the_standard_variables_say_so(
    monkeypatch: pytest.MonkeyPatch, standard: Mapping[str, str], *, wanted: bool
) -> None:
    for name, value in standard.items():
        monkeypatch.setenv(name, value)
    assert traces_wanted() is wanted
