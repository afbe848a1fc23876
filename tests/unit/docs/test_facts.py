"""What the pages name exists: settings, metrics, routes, files, commands, make targets, states, errors, words."""

import inspect
import re
import runpy
import tomllib
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from dotenv import dotenv_values

from ai_task_processor import cli
from ai_task_processor.demo.texts import shipped_claims
from ai_task_processor.domain import errors, outcome, ports, task, work
from ai_task_processor.domain.clock import SystemClock
from ai_task_processor.journal.state import State
from ai_task_processor.ops import lines
from ai_task_processor.ops.catalogue import CATALOGUE
from ai_task_processor.ops.health import Health, HealthSettings
from ai_task_processor.settings import Settings, load_settings

ROOT = Path(__file__).parents[3]
NAMES = ["README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]
REFERENCE: dict[str, Any] = runpy.run_path(str(ROOT / "docs/reference.py"), run_name="reference")

# Variables that are no settings of the daemon.
OTHERS = {"TASK_SERVER_CLIENT_ID", "TASK_SERVER_CLIENT_SECRET", "ARGS", "PYTHON", "SSL_CERT_FILE"}

CODE = re.compile(r"^```(\w*)\n(.*?)^```|`([^`\n]+)`", re.DOTALL | re.MULTILINE)
SETTING = re.compile(r"\b(?!OTEL_)[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\b(?!_?\*)")

pages = pytest.mark.parametrize("name", NAMES)


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def code(name: str, *, besides: Container[str] = ()) -> Iterator[str]:
    """Everything on a page that is set as code, but for blocks in some languages."""
    return (block or inline for language, block, inline in CODE.findall(page(name)) if language not in besides)


def block(name: str, language: str) -> str:
    found = re.search(rf"^```{language}\n(.*?)^```", page(name), re.DOTALL | re.MULTILINE)
    assert found
    return found[1]


def column(text: str, number: int = 0) -> list[str]:
    """The code in one column of the tables in a text."""
    rows = [line.strip("| ").split("|") for line in text.splitlines() if line.startswith("|")]
    return [word for row in rows if len(row) > number for word in re.findall(r"`([^`]+)`", row[number])]


def section(name: str, heading: str) -> str:
    found = re.search(rf"^(#+) {re.escape(heading)}\n(.*?)(?=^#|\Z)", page(name), re.DOTALL | re.MULTILINE)
    assert found, heading
    return found[2]


# --- Made from the code -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REFERENCE["PAGES"])
def test_generated_tables_are_fresh(name: str) -> None:
    renewed: Callable[[str], str] = REFERENCE["renewed"]
    assert page(name) == renewed(page(name)), f"{name} is out of date: run `make docs`"


def test_every_setting_and_metric_is_in_its_table() -> None:
    assert set(column(page("docs/configuration.md"))) >= {name.upper() for name in Settings.model_fields}
    assert set(column(page("docs/operations.md"))) >= {one.full_name for one in CATALOGUE}


# --- Names ------------------------------------------------------------------------------------------------------------


@pages
def test_settings_exist(name: str) -> None:
    known = {setting.upper() for setting in Settings.model_fields} | OTHERS
    named = {word for part in code(name, besides=("python", "diff")) for word in SETTING.findall(part)}
    assert named <= known


@pages
def test_metrics_exist(name: str) -> None:
    known = {one.full_name for one in CATALOGUE} | {"ai_task_processor_"}
    named = {word for part in code(name) for word in re.findall(r"\bai_task_processor_\w*", part)}
    assert named <= known


def test_the_readmes_metrics_exist() -> None:
    assert set(column(section("README.md", "Monitoring"))) <= {one.name for one in CATALOGUE}


@pages
def test_files_exist(name: str) -> None:
    new = set(re.findall(r"<!-- file: (\S+) -->", page(name)))
    named = {word for part in code(name) for word in re.findall(r"^(?:ai_task_processor|tests|docs)/[\w./]+", part)}
    assert not {path for path in named - new if not (ROOT / path).exists()}


@pages
def test_make_targets_exist(name: str) -> None:
    targets = set(re.findall(r"^([a-z]+):", page("Makefile"), re.MULTILINE))
    lines_ = [line.partition("#")[0] for part in code(name) for line in part.splitlines() if line.startswith("make ")]
    asked = {word for line in lines_ for word in line.split()[1:] if re.fullmatch("[a-z]+", word)}
    assert asked <= targets


@pages
def test_commands_and_their_options_exist(name: str) -> None:
    calls = [line for part in code(name) for line in part.splitlines() if line.startswith("ai-task-processor ")]
    for call in calls:
        command: Any = typer.main.get_command(cli.app)
        for word in call.partition("#")[0].split()[1:]:
            commands = getattr(command, "commands", {})
            if word.startswith("--"):
                assert word in {option for parameter in command.params for option in parameter.opts}, call
            elif commands:
                assert word in commands, call
                command = commands[word]


def test_options_of_the_task_server_are_all_told() -> None:
    parameters = typer.main.get_command(cli.app).commands["serve"].params  # type: ignore[attr-defined]  # a group
    options = {option for one in parameters if not getattr(one, "hidden", False) for option in one.opts}
    told = set(column(page("docs/task-server.md")))
    assert options - {"--help", "-h"} <= told
    assert {word for word in told if word.startswith("--")} <= options


# --- Facts ------------------------------------------------------------------------------------------------------------


def test_the_readmes_five_lines_are_a_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    file = tmp_path / "five.env"
    file.write_text(block("README.md", "ini"), encoding="utf-8")
    assert len(dotenv_values(file)) == 5
    assert load_settings(file).mode == "openai"


def test_the_demonstration_has_as_many_texts_as_the_readme_says() -> None:
    assert f"{len(shipped_claims())} texts" in page("README.md")


@pytest.mark.parametrize("name", ["README.md", "docs/providers.md"])
def test_every_mode_has_its_row(name: str) -> None:
    modes = {"auto", "openai", "ollama", "hybrid", "local", "mock"}
    assert set(column(page(name))) >= modes
    for mode in modes - {"auto", "openai", "hybrid"}:
        assert load_settings(None, **required(), processing_mode=mode).mode == mode


def required() -> dict[str, str]:
    names = ("api_base_url", "ory_project_slug", "oauth2_client_id", "oauth2_client_secret")
    return dict.fromkeys(names, "https://api.example.com")


def test_exit_codes_are_those_of_the_command_line() -> None:
    rows = re.findall(r"^\| (\d+) \|", section("docs/operations.md", "Start and stop"), re.MULTILINE)
    assert sorted(map(int, rows)) == sorted(code.value for code in cli.ExitCode)


def test_checks_of_readiness_are_those_there_are() -> None:
    settings = HealthSettings("s", "v", 1, 1, limits_enabled=True, limits_strategy="rolling", providers=("mock",))
    checks = Health(settings, clock=SystemClock(), storage=lambda: None).checks()
    table = section("docs/operations.md", "Routes").partition("The checks of")[2]
    assert column(table) == list(checks)


def test_log_words_are_those_that_are_written() -> None:
    written = inspect.getsource(lines).replace("{event.type.replace('_', ' ')}", "text embedding")
    told = column(section("docs/operations.md", "Log"))
    assert told
    assert not [words for words in told if words not in written]


def test_states_are_those_of_the_journal() -> None:
    told = set(column(page("docs/task-states.md").partition("Each transition")[0]))
    assert told == {state.value for state in State}


def test_every_verb_of_the_journal_is_told() -> None:
    verbs = [name for name in vars(ports.Journal) if not name.startswith("_")]
    text = page("docs/task-states.md")
    assert not [verb for verb in verbs if f"`{verb}`" not in text and f" `{verb}" not in text]


def test_every_error_is_told() -> None:
    defined = {
        name for name, one in vars(errors).items() if isinstance(one, type) and one.__module__ == errors.__name__
    }
    assert set(column(section("docs/architecture.md", "Errors"))) == defined


def test_every_port_is_told() -> None:
    protocols = {name for name, one in vars(ports).items() if getattr(one, "_is_protocol", False) and own(one, ports)}
    assert set(column(section("docs/architecture.md", "Ports"))) == protocols


@pytest.mark.parametrize("module", [task, work, outcome, ports], ids=lambda module: module.__name__.rpartition(".")[2])
def test_every_word_of_the_vocabulary_is_in_the_glossary(module: Any) -> None:
    glossary = page("docs/glossary.md")
    first = " ".join(re.findall(r"^\| ([^|]+) \|", glossary, re.MULTILINE)).lower()
    words = {name for name, one in vars(module).items() if isinstance(one, type) and own(one, module)}
    missing = {word for word in words if not any(form in first for form in forms(word))}
    assert not missing, "a new word enters docs/glossary.md with the change that needs it"


def own(one: Any, module: Any) -> bool:
    return bool(one.__module__ == module.__name__)


def forms(word: str) -> tuple[str, str]:
    """``TaskSource`` may stand as one word, or by its last part."""
    return word.lower(), re.findall(r"[A-Z][a-z]+", word)[-1].lower()


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "docs/architecture.md"])
def test_the_layers_are_those_that_are_checked(name: str) -> None:
    contracts = tomllib.loads(page("pyproject.toml"))["tool"]["importlinter"]["contracts"]
    checked = [set(re.findall(r"ai_task_processor\.(\w+)", layer)) for layer in contracts[0]["layers"]]
    (drawn,) = (part for part in code(name) if part.startswith("cli ▸"))
    assert [set(re.findall(r"[a-z_]{3,}", layer.partition("(")[0])) for layer in drawn.split("▸")] == checked
