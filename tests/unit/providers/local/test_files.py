from collections.abc import Callable
from pathlib import Path

import pytest

from ai_task_processor.domain.errors import ConfigurationError
from ai_task_processor.providers.local.files import find_model
from ai_task_processor.providers.local.model import required


def write(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return folder


@pytest.mark.parametrize(
    ("names", "model", "root"),
    [
        (["model.onnx", "tokenizer.json"], "model.onnx", "."),
        (["onnx/model.onnx", "tokenizer.json", "README.md"], "onnx/model.onnx", "."),
        (["onnx/model.onnx", "onnx/tokenizer.json"], "onnx/model.onnx", "onnx"),
        (["model.onnx", "model_int8.onnx", "tokenizer.json"], "model.onnx", "."),
        (["mine.onnx", "tokenizer.json"], "mine.onnx", "."),
        (["mine.gguf"], "mine.gguf", "."),
        (["big-00001-of-00002.gguf", "big-00002-of-00002.gguf"], "big-00001-of-00002.gguf", "."),
    ],
)
def test_the_model_of_a_folder_is_found(tmp_path: Path, names: list[str], model: str, root: str) -> None:
    found = find_model(write(tmp_path / "mine", *names))
    assert found.model == tmp_path / "mine" / model
    assert found.root == tmp_path / "mine" / root
    assert found.kind == model.rpartition(".")[2]


@pytest.mark.parametrize(
    ("names", "path", "name"),
    [
        (["bge/model.onnx", "bge/tokenizer.json"], "bge", "bge"),
        (["bge/model.onnx", "bge/tokenizer.json"], "bge/model.onnx", "bge"),
        (["bge/onnx/model.onnx", "bge/tokenizer.json"], "bge/onnx/model.onnx", "bge"),
        (["bge/small.onnx", "bge/tokenizer.json"], "bge/small.onnx", "small"),
        (["bge/small.Q4_1.gguf"], "bge/small.Q4_1.gguf", "small.Q4_1"),
        (["b-00001-of-00002.gguf", "b-00002-of-00002.gguf"], "b-00001-of-00002.gguf", "b"),
    ],
)
def test_it_is_called_by_its_folder_or_file_and_its_digest(
    tmp_path: Path, names: list[str], path: str, name: str
) -> None:
    found = find_model(write(tmp_path, *names) / path)
    assert found.name == f"{name}@{found.digest[:8]}"


@pytest.mark.parametrize(
    ("path", "names", "words"),
    [
        ("nowhere", [], r"there is nothing at .*nowhere; give the folder of a model, or its \.onnx or \.gguf file"),
        ("m", ["m/README.md"], r"has no \.onnx and no \.gguf file"),
        ("m", ["m/a.onnx", "m/b.onnx", "m/tokenizer.json"], r"several models \(a.onnx, b.onnx\); give the path of one"),
        ("m", ["m/model.onnx", "m/b.gguf", "m/tokenizer.json"], r"several models \(b.gguf, model.onnx\)"),
        ("m", ["m/model.onnx"], r"has no tokenizer\.json"),
        ("m/model.safetensors", ["m/model.safetensors"], r"neither an \.onnx nor a \.gguf"),
    ],
)
def test_what_cannot_be_used_is_told_with_its_remedy(tmp_path: Path, path: str, names: list[str], words: str) -> None:
    with pytest.raises(ConfigurationError, match=f"LOCAL_MODEL_PATH: .*{words}"):
        find_model(write(tmp_path, *names) / path)


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", "model.onnx", "tokenizer.json")
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").mkdir()
    with pytest.raises(ConfigurationError, match=r"model\.onnx cannot be read: Is a directory"):
        find_model(folder)


ONNX = ["model.onnx", "model.onnx_data", "tokenizer.json", "config.json", "1_Pooling/config.json"]
PARTS = ["b-00001-of-00002.gguf", "b-00002-of-00002.gguf"]


@pytest.mark.parametrize(
    ("names", "changed"),
    [
        *((ONNX, name) for name in [*ONNX, "modules.json"]),
        *((PARTS, name) for name in PARTS),
    ],
)
def test_another_file_is_another_model(tmp_path: Path, names: list[str], changed: str) -> None:
    before = find_model(write(tmp_path / "m", *names))
    (tmp_path / "m" / changed).write_bytes(b"other")
    after = find_model(tmp_path / "m")
    assert after.digest != before.digest
    assert after.name != before.name


@pytest.mark.parametrize("change", [lambda folder: folder.rename(folder.parent / "elsewhere"), lambda folder: folder])
def test_the_same_files_elsewhere_are_the_same_model(tmp_path: Path, change: Callable[[Path], Path]) -> None:
    before = find_model(write(tmp_path / "m", *ONNX))
    write(tmp_path / "m", "README.md", "model_int8.onnx")
    assert find_model(change(tmp_path / "m")).digest == before.digest


def test_a_missing_package_is_told_with_the_command_that_installs_it() -> None:
    with pytest.raises(ConfigurationError, match=r"needs the package no_such_package: pip install 'ai-.*\[onnx\]'"):
        required("no_such_package", extra="onnx")
