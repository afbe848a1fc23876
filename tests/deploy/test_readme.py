"""What deploy/README.md names is there."""

import json
import re
from pathlib import Path

import pytest
import yaml

from ai_task_processor.settings import Settings

DEPLOY = Path(__file__).parents[2] / "deploy"
PAGE = (DEPLOY / "README.md").read_text(encoding="utf-8")
LINKS = sorted(set(re.findall(r"\]\((?!https?:)([^)]+)\)", PAGE)))


@pytest.mark.parametrize("link", LINKS)
def test_links_lead_somewhere(link: str) -> None:
    path, _, anchor = link.partition("#")
    page = DEPLOY / path
    assert page.exists()
    if anchor:
        headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert anchor in {heading.lower().replace(" ", "-") for heading in headings}


def test_paths_settings_and_names_are_right() -> None:
    for path in re.findall(r"deploy/[\w./-]+\w", PAGE):
        assert (DEPLOY.parent / path).exists(), path
    for name in re.findall(r"`([A-Z]+(?:_[A-Z0-9]+)+)[=`]", PAGE):
        assert name.lower() in Settings.model_fields or name == "CONTAINER_OLLAMA_BASE_URL", name
    compose = yaml.safe_load((DEPLOY.parent / "docker-compose.yml").read_text(encoding="utf-8"))
    profiles = {profile for service in compose["services"].values() for profile in service.get("profiles", ())}
    assert set(re.findall(r"--profile (\w+)", PAGE)) <= profiles
    pair = compose["services"]["task-server"]["environment"]
    assert f"-u {pair['TASK_SERVER_CLIENT_ID']}:{pair['TASK_SERVER_CLIENT_SECRET']}" in PAGE
    assert json.loads(re.findall(r"-d '(\[.*\])'", PAGE)[0])[0]["type"] == "text_embedding"
