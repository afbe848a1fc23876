"""The Dockerfile, what goes into the image, and what becomes of `make image` where there is nothing to make it with."""

import re
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ai_task_processor import __version__
from tests.fakes.dockerfile import last_stage

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "Dockerfile"
IMAGE = last_stage(DOCKERFILE)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_hadolint_is_content() -> None:
    checker = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([checker, DOCKERFILE], capture_output=True, text=True, check=False, timeout=60)  # noqa: S603
    assert done.returncode == 0, done.stdout + done.stderr


def test_hadolint_would_notice(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(DOCKERFILE.read_text() + "RUN apt-get install curl\n")
    checker = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([checker, tmp_path / "Dockerfile"], capture_output=True, check=False, timeout=60)  # noqa: S603
    assert done.returncode != 0


@pytest.mark.parametrize("script", ["deploy/image/build", ".ci/install", ".ci/run"])
def test_shellcheck_is_content(script: str) -> None:
    checker = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([checker, ROOT / script], capture_output=True, text=True, check=False, timeout=60)  # noqa: S603
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_the_image_says_of_itself() -> None:
    assert IMAGE.one("USER") == "10001:10001"
    assert IMAGE.one("WORKDIR") == "/app"
    assert IMAGE.all("VOLUME") == ["/app/data"]
    assert IMAGE.one("STOPSIGNAL") == "SIGTERM"
    assert IMAGE.command("ENTRYPOINT") == ["ai-task-processor"]
    assert IMAGE.command("CMD") == ["run"]
    assert IMAGE.one("HEALTHCHECK").endswith('CMD ["python", "-m", "ai_task_processor.health"]')
    assert IMAGE.environment["METRICS_HOST"] == "0.0.0.0"  # noqa: S104  # inside of the container
    assert IMAGE.environment["TMPDIR"] == IMAGE.environment["HOME"] == "/app/data"
    assert "STATE_URL" not in IMAGE.environment, "it would be in the way of STATE_URL_FILE"
    assert f"VERSION={__version__}" in IMAGE.all("ARG")
    assert {label.rpartition(".")[2] for label in IMAGE.labels} >= {"title", "description", "licenses", "version"}


def test_the_last_stage_installs_nothing() -> None:
    assert not re.search(r"\b(apt|apt-get|pip|curl|wget)\b", " ".join(IMAGE.all("RUN")))


def test_everything_that_is_copied_is_let_in_and_nothing_else() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    let_in = {line[1:] for line in lines if line.startswith("!")}
    copied = {
        source.removeprefix("./")
        for line in DOCKERFILE.read_text(encoding="utf-8").splitlines()
        if line.startswith("COPY ") and "--from" not in line
        for source in line.split()[1:-1]
    }
    assert copied == let_in
    assert all((ROOT / name).exists() for name in let_in)
    assert lines[1] == "*"
    assert not any(fnmatch(".env", name) for name in let_in)


# --- Locked dependencies ----------------------------------------------------------------------------------------------


def locked(name: str) -> dict[str, set[str]]:
    """Names and versions of a lock."""
    pins: dict[str, set[str]] = {}
    for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
        if line and not line.startswith((" ", "#")):
            package, _, version = line.rstrip(" \\").partition(" ;")[0].partition("==")
            pins.setdefault(canonicalize_name(package), set()).add(version)
    return pins


def wanted() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"]
    (every,) = [Requirement(line) for line in extras["all"]]
    lines = [*PROJECT["dependencies"], *(line for extra in every.extras for line in extras[extra])]
    linux = default_environment() | {"sys_platform": "linux"}
    requirements = map(Requirement, lines)
    return [one for one in requirements if one.marker is None or one.marker.evaluate(dict(linux))]


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-build.lock"])
def test_a_lock_is_hashed_and_names_no_place(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert "://" not in text
    assert "--index" not in text
    assert "--find-links" not in text
    assert canonicalize_name(PROJECT["name"]) not in locked(name)
    pins = re.findall(r"^\S+==.*(?:\n    --hash=sha256:[0-9a-f]{64}.*)+", text, re.MULTILINE)
    assert len(pins) == sum(len(versions) for versions in locked(name).values()) > 0


def test_the_lock_has_all_that_the_project_wants() -> None:
    pins = locked("requirements.lock")
    lacking = [
        str(one)
        for one in wanted()
        if not any(one.specifier.contains(version) for version in pins.get(canonicalize_name(one.name), ()))
    ]
    assert lacking == [], "renew it with `make lock`"


# --- make image -------------------------------------------------------------------------------------------------------


def test_without_an_engine_it_says_so(tmp_path: Path) -> None:
    for tool in ("sh", "dirname", "sed", "git"):
        (tmp_path / tool).symlink_to(f"/usr/bin/{tool}")
    script = ROOT / "deploy/image/build"
    done = subprocess.run([script], env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False)  # noqa: S603
    assert done.returncode == 1
    assert "No image was built: it needs a running docker, or podman, or buildah." in done.stderr
    assert done.stdout == ""


def test_a_build_that_fails_is_no_success(tmp_path: Path) -> None:
    for tool in ("sh", "dirname", "sed", "git"):
        (tmp_path / tool).symlink_to(f"/usr/bin/{tool}")
    (tmp_path / "podman").write_text('#!/bin/sh\ntest "$1" = info\n')
    (tmp_path / "podman").chmod(0o755)
    script = ROOT / "deploy/image/build"
    done = subprocess.run([script], env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False)  # noqa: S603
    assert done.returncode == 1
    assert "Building ai-task-processor:" in done.stdout
    assert "is built" not in done.stdout
