import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_task_processor.providers.local.gguf_facts import NotGguf, gguf_facts


def string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def entry(key: str, kind: int, value: bytes) -> bytes:
    return string(key) + struct.pack("<I", kind) + value


ENTRIES = [
    entry("general.architecture", 8, string("bert")),
    entry("tokens", 9, struct.pack("<IQ", 8, 2) + string("a") + string("日本語")),
    entry("scores", 9, struct.pack("<IQ3f", 6, 3, 1, 2, 3)),
    entry("bert.pooling_type", 4, struct.pack("<I", 2)),
    entry("bert.causal", 7, struct.pack("<?", 0)),
    entry("bert.epsilon", 12, struct.pack("<d", 0.5)),
]


def file(entries: list[bytes], *, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, 5, len(entries)) + b"".join(entries)


def test_single_values_are_read_and_lists_passed_over(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(file(ENTRIES) + b"weights")
    assert gguf_facts(tmp_path / "m.gguf") == {
        "general.architecture": "bert",
        "bert.pooling_type": 2,
        "bert.causal": False,
        "bert.epsilon": 0.5,
    }


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "does not begin"),
        (b"version https://git-lfs", "does not begin"),
        (file([], version=1), "does not begin"),
        (b"GGUF", "ends too early"),
        (file(ENTRIES)[:-1], "ends too early"),
        (file([entry("k", 8, struct.pack("<Q", 2**40))]), "a string of 1099511627776 bytes"),
        (file([entry("k", 99, b"")]), "unknown kind 99"),
        (file([entry("k", 9, struct.pack("<IQ", 0, 2**40)), entry("l", 0, b"x")]), "ends too early"),
    ],
)
def test_anything_else_is_no_gguf(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "m.gguf").write_bytes(content)
    with pytest.raises(NotGguf, match=words):
        gguf_facts(tmp_path / "m.gguf")


@given(cut=st.integers(0, len(file(ENTRIES)) - 1))
def test_a_file_that_was_not_downloaded_whole_is_no_gguf(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = tmp_path_factory.mktemp("cut") / "m.gguf"
    path.write_bytes(file(ENTRIES)[:cut])
    with pytest.raises(NotGguf):
        gguf_facts(path)
