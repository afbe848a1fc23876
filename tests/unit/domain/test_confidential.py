from rich.pretty import pretty_repr

from ai_task_processor.domain.confidential import Confidential


class Key(Confidential, frozen=True):
    name: str
    text: str


def test_a_secret_is_not_shown() -> None:
    key = Key("theirs", "hush")
    assert repr(key) == "Key(…)"
    assert "hush" not in pretty_repr({"key": key})
    assert (key.text, key) == ("hush", Key("theirs", "hush"))
