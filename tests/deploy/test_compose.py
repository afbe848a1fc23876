"""docker-compose.yml: valid, confined, gated by health, and at one with `.env.example`."""

import re
import shutil
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from dotenv import dotenv_values

from ai_task_processor import __version__
from ai_task_processor.settings import Settings, load_settings

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docker-compose.yml"
COMPOSE: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = ("daemon", "task-server", "demo")


def seconds(text: str) -> float:
    number, unit = re.fullmatch(r"(\d+)(s|m)", text).groups()  # type: ignore[union-attr]  # or it fails
    return float(number) * (60 if unit == "m" else 1)


def test_the_schema_of_compose_files_is_content() -> None:
    checker = Path(sys.executable).with_name("check-jsonschema")
    command = [checker, "--builtin-schema", "vendor.compose-spec", FILE]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)  # noqa: S603
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("profile", ["", "postgres", "monitoring", "demo"])
def test_compose_itself_is_content(profile: str) -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], check=False, capture_output=True).returncode:  # noqa: S603
        pytest.skip("docker compose is not installed: the file is only checked by its schema")
    command = [docker, "compose", "--file", str(FILE), "--profile", profile or "none", "config", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)  # noqa: S603
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_confined_and_watched(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["restart"] == "unless-stopped"
    assert service["healthcheck"]["test"][0] == "CMD", "nothing needs a shell"
    assert seconds(service["healthcheck"]["timeout"]) < seconds(service["healthcheck"]["interval"])
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), "published to this machine only"
    assert not service["image"].endswith(":latest")
    assert ":" in service["image"]


@pytest.mark.parametrize("name", SERVICES)
def test_who_depends_waits_until_the_other_is_healthy(name: str) -> None:
    for other, condition in SERVICES[name].get("depends_on", {}).items():
        assert condition["condition"] == "service_healthy"
        together = set(SERVICES[other].get("profiles", ())) <= set(SERVICES[name].get("profiles", ()))
        assert together or condition.get("required") is False, f"{other} is not started whenever {name} is"


def test_profiles() -> None:
    assert {name: service.get("profiles", []) for name, service in SERVICES.items()} == {
        "daemon": [],
        "ollama": [],
        "postgres": ["postgres"],
        "prometheus": ["monitoring"],
        "task-server": ["demo"],
        "demo": ["demo"],
    }


def test_volumes_and_files_are_there() -> None:
    for service in SERVICES.values():
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            assert (ROOT / source).exists() if source.startswith("./") else source in COMPOSE["volumes"]
    assert (ROOT / "deploy/prometheus/prometheus.yml").is_file()
    (job,) = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["daemon:8001"]}]


@pytest.mark.parametrize("name", OURS)
def test_the_image_and_the_time_to_stop(name: str) -> None:
    assert SERVICES[name]["image"] == f"ai-task-processor:{__version__}"
    assert seconds(SERVICES[name]["stop_grace_period"]) > Settings.model_fields["shutdown_grace_seconds"].default
    (volume,) = SERVICES[name]["volumes"]
    assert volume.endswith(":/app/data")
    assert "tmpfs" not in SERVICES[name], "there is one place to write"


def test_env_example_works_as_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    example = dotenv_values(ROOT / ".env.example", interpolate=False)
    fixed = SERVICES["daemon"]["environment"]
    settings = settings_of({**example, **fixed, "OLLAMA_BASE_URL": "http://ollama:11434"}, monkeypatch)
    assert (settings.metrics_host, settings.metrics_port) == ("0.0.0.0", 8001)  # noqa: S104  # inside of the container
    assert settings.state_location == "sqlite:///data/state.db", "under /app, where the volume is"
    assert SERVICES["daemon"]["ports"] == ["127.0.0.1:${METRICS_PORT:-8001}:8001"]
    assert fixed["OLLAMA_BASE_URL"] == "${CONTAINER_OLLAMA_BASE_URL:-http://ollama:11434}"


def test_the_state_in_postgresql_is_that_of_the_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    said = re.search(r"in \.env, (STATE_URL=\S+)", FILE.read_text(encoding="utf-8"))
    assert said
    database = SERVICES["postgres"]["environment"]
    password = database["POSTGRES_PASSWORD"].partition(":-")[2].rstrip("}")
    example = dotenv_values(ROOT / ".env.example", interpolate=False) | dotenv_values(stream=StringIO(said[1]))
    settings = settings_of(example, monkeypatch)
    name = database["POSTGRES_USER"]
    assert settings.state_location == f"postgresql://{name}:{password}@postgres:5432/{database['POSTGRES_DB']}"


def test_the_demo_needs_no_env_file(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "env_file" not in SERVICES["demo"]
    settings = settings_of(SERVICES["demo"]["environment"], monkeypatch)
    pair = SERVICES["task-server"]["environment"]
    assert settings.oauth2_client_id == pair["TASK_SERVER_CLIENT_ID"]
    assert settings.oauth2_client_secret.get_secret_value() == pair["TASK_SERVER_CLIENT_SECRET"]
    assert settings.api_base_url == "http://task-server:8090"
    assert settings.mode == "local"


def settings_of(values: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in values.items():
        assert name.lower() in Settings.model_fields
        monkeypatch.setenv(name, str(value))
    return load_settings(None)
