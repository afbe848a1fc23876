import stat
from pathlib import Path

import pytest

from ai_task_processor.domain.errors import ConfigurationError
from ai_task_processor.server.credentials import FILE_NAME, Credentials, load_or_create_credentials


def test_the_secret_is_not_in_the_repr() -> None:
    assert "hush" not in repr(Credentials("me", "hush"))


@pytest.mark.parametrize(("client_id", "secret"), [("", "x"), ("x", "")])
def test_empty_credentials_are_refused(client_id: str, secret: str) -> None:
    with pytest.raises(ConfigurationError):
        Credentials(client_id, secret)


def test_credentials_are_made_once_and_only_their_owner_can_read_them(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "there"

    made = load_or_create_credentials(folder)

    assert load_or_create_credentials(folder) == made
    assert len(made.client_secret) >= 40
    assert stat.S_IMODE((folder / FILE_NAME).stat().st_mode) == 0o600
    assert [path.name for path in folder.iterdir()] == [FILE_NAME]


def test_each_folder_has_a_secret_of_its_own(tmp_path: Path) -> None:
    secrets = {load_or_create_credentials(tmp_path / name).client_secret for name in "abc"}

    assert len(secrets) == 3


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"client_id": "a"}', '{"client_id": "", "client_secret": ""}'])
def test_a_damaged_file_is_named_and_left_alone(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE_NAME).write_text(content)

    with pytest.raises(ConfigurationError):
        load_or_create_credentials(tmp_path)
    assert (tmp_path / FILE_NAME).read_text() == content


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(ConfigurationError, match="credentials cannot be kept here"):
        load_or_create_credentials(tmp_path / "file")
