from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_task_processor.demo.texts import nearest, read_texts, shipped_claims
from ai_task_processor.domain.errors import ConfigurationError


def write(folder: Path, name: str, content: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_the_shipped_claims_are_many_short_and_all_different() -> None:
    claims = shipped_claims()

    assert 280 <= len(claims) <= 350
    assert len(set(claims)) == len(claims)
    assert all(4 <= len(claim.split()) <= 20 for claim in claims)
    assert "".join(claims).isascii()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "one\ntwo, with a comma\n"),
        ("a.TXT", "\n  one \r\n\r\ntwo, with a comma"),
        ("a.txt", b"\xef\xbb\xbfone\ntwo, with a comma"),
        ("a.csv", 'one,1\n"two, with a comma",2\n'),
        ("a.csv", 'id,Claim\n1,one\n2,"two, with a comma"\n,\n'),
        ("a.csv", b'\xef\xbb\xbftext,id\r\none,1\r\n,5\r\n\r\n"two, with a comma",2\r\n'),
        ("a.jsonl", '"one"\n{"text": "two, with a comma"}\n'),
        ("a.jsonl", '{"content": {"text": "one", "model": "m"}}\n\n{"content": "two, with a comma"}\n""\n'),
    ],
)
def test_texts_are_read_in_order_and_without_blank_ones(tmp_path: Path, name: str, content: bytes | str) -> None:
    assert read_texts(write(tmp_path, name, content)) == ["one", "two, with a comma"]


def test_a_text_may_have_line_breaks_where_the_format_has_quotes(tmp_path: Path) -> None:
    assert read_texts(write(tmp_path, "a.csv", 'text\n"one\ntwo"\n')) == ["one\ntwo"]
    assert read_texts(write(tmp_path, "a.jsonl", '"one\\ntwo"\n')) == ["one\ntwo"]


def test_odd_separators_inside_a_line_do_not_break_it(tmp_path: Path) -> None:
    assert read_texts(write(tmp_path, "a.txt", "one\u2028still one\x0bstill one\n")) == [
        "one\u2028still one\x0bstill one"
    ]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.pdf", "x", r"a\.pdf must be one of \.txt, \.csv, \.jsonl"),
        ("a", "x", "must be one of"),
        ("a.txt", " \n\n", r"a\.txt holds no text"),
        ("a.csv", "text\n", "holds no text"),
        ("a.txt", b"fine\nfine\nna\xefve\n", r"a\.txt, line 3, is not UTF-8"),
        ("a.csv", "id,text\n1,one\n2\n", r"a\.csv, line 3, has 1 columns; the text should be in column 2"),
        ("a.csv", 'text\n"one" two\n', r"a\.csv, line 2, is not CSV"),
        ("a.jsonl", '"one"\n\n{"text": \n', r"a\.jsonl, line 3, is not JSON"),
        ("a.jsonl", "12\n", r"a\.jsonl, line 1, must be a string, or an object"),
        ("a.jsonl", '{"text": 12}', "line 1, must be a string"),
        ("a.jsonl", '{"claim": "x"}', "line 1, must be a string"),
        ("a.jsonl", "[" * 100_000, "line 1, is not JSON"),
    ],
)
def test_what_cannot_be_read_is_refused_with_file_and_line(
    tmp_path: Path, name: str, content: bytes | str, words: str
) -> None:
    with pytest.raises(ConfigurationError, match=words):
        read_texts(write(tmp_path, name, content))


def test_a_file_that_is_not_there_and_a_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.txt").mkdir()

    for name in ("missing.txt", "folder.txt"):
        with pytest.raises(ConfigurationError, match=rf"{name} cannot be read: "):
            read_texts(tmp_path / name)


def test_the_nearest_rows_come_in_the_order_of_their_angle() -> None:
    vectors = np.array([[2, 0], [0, 5], [3, 3], [9, 1], [-1, 0]], dtype=np.float32)

    found = nearest(vectors, 0, 3)

    assert [index for index, _ in found] == [3, 2, 1]
    assert [cosine for _, cosine in found] == pytest.approx([9 / np.sqrt(82), np.sqrt(0.5), 0.0])


def test_a_row_of_zeros_is_like_nothing() -> None:
    vectors = np.array([[0, 0], [1, 0]], dtype=np.float32)

    assert nearest(vectors, 0, 5) == [(1, 0.0)]
    assert nearest(vectors, 1, 5) == [(0, 0.0)]


@given(st.integers(1, 12), st.integers(0, 15), st.integers(0, 2**32 - 1))
def test_nearest_gives_other_rows_only_each_once(rows: int, count: int, seed: int) -> None:
    vectors = np.random.default_rng(seed).normal(size=(rows, 4)).astype(np.float32)

    found = [index for index, _ in nearest(vectors, seed % rows, count)]

    assert len(found) == len(set(found)) == min(count, rows - 1)
    assert seed % rows not in found


def test_claims_of_one_subject_lie_together_in_the_embedded_model() -> None:
    wordllama = pytest.importorskip("wordllama")
    folder = Path(wordllama.__file__).parent
    claims = shipped_claims()
    vectors = wordllama.WordLlama.load(cache_dir=folder, disable_download=True).embed(claims, norm=True)

    def all_near(index: int, word: str) -> bool:
        return all(word in claims[other] for other, _ in nearest(vectors, index, 3))

    assert "far side of the Moon" in claims[0]
    assert all_near(0, "Moon")
    middle = len(claims) // 2
    assert "central bank" in claims[middle]
    assert all_near(middle, "interest")
