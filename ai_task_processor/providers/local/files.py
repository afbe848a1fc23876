"""The files of a model of the user's own: where they are, what kind of model they are, and their digest."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

from msgspec import Struct

from ai_task_processor.domain.errors import ConfigurationError

Kind: TypeAlias = Literal["onnx", "gguf"]

TOKENIZER = "tokenizer.json"
USUAL = "model.onnx"
"""What the whole model is called where a folder has smaller copies of it, too."""

CONFIGURATION = (
    "config.json",
    "modules.json",
    "sentence_bert_config.json",
    "tokenizer_config.json",
    "1_Pooling/config.json",
)
"""Beside an ONNX model: what says how it is to be used."""

_DIGEST_BYTES = 8
_FIRST_PART = "-00001-of-"


class ModelFiles(Struct, frozen=True):
    """A model that is there: ``model`` is the file to load, ``root`` the folder with what belongs to it.

    ``name`` ends with the beginning of the ``digest`` of all these files: other weights are another model.
    """

    kind: Kind
    model: Path
    root: Path
    name: str
    digest: str


def find_model(path: Path) -> ModelFiles:
    """The model at ``path``, a file or a folder; reads all of it once. Raises ConfigurationError."""
    try:
        model = _model(path)
        kind: Kind = "gguf" if model.suffix == ".gguf" else "onnx"
        root = _root(model) if kind == "onnx" else model.parent
        digest = _digest(_belonging(kind, model, root))
    except OSError as error:
        raise fault(f"{error.filename or path} cannot be read: {error.strerror}") from error
    return ModelFiles(kind, model, root, name=f"{_name(path, model, root)}@{digest[:_DIGEST_BYTES]}", digest=digest)


def fault(sentence: str) -> ConfigurationError:
    """The error for a model that cannot be used."""
    return ConfigurationError([f"LOCAL_MODEL_PATH: {sentence}"])


def _model(path: Path) -> Path:
    if not path.exists():
        raise fault(f"there is nothing at {path.absolute()}; give the folder of a model, or its .onnx or .gguf file")
    if path.is_dir():
        return _in_folder(path)
    if path.suffix not in {".onnx", ".gguf"}:
        raise fault(f"{path} is neither an .onnx nor a .gguf file")
    return path


def _in_folder(folder: Path) -> Path:
    """One that has the usual name, or the only one."""
    found = _models(folder) or _models(folder / "onnx")
    usual = [model for model in found if model.name == USUAL]
    candidates = usual if usual and all(model.suffix == ".onnx" for model in found) else found
    if not candidates:
        raise fault(f"{folder} has no .onnx and no .gguf file")
    if len(candidates) > 1:
        names = ", ".join(model.name for model in candidates)
        raise fault(f"{folder} has several models ({names}); give the path of one of them")
    return candidates[0]


def _models(folder: Path) -> Sequence[Path]:
    """Of a model in several parts, the first."""
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    return [
        path
        for path in paths
        if path.suffix == ".onnx" or (path.suffix == ".gguf" and ("-of-" not in path.name or _FIRST_PART in path.name))
    ]


def _root(model: Path) -> Path:
    """Exporters put the model beside its tokenizer, or into a folder ``onnx`` there."""
    for folder in (model.parent, *([model.parent.parent] if model.parent.name == "onnx" else [])):
        if (folder / TOKENIZER).is_file():
            return folder
    raise fault(f"{model.parent} has no {TOKENIZER}; an ONNX model needs the one that it was trained with")


def _belonging(kind: Kind, model: Path, root: Path) -> Iterator[Path]:
    yield model
    if kind == "gguf":
        yield from (part for part in sorted(root.iterdir()) if _is_other_part(part, model))
    else:
        yield from sorted(model.parent.glob(f"{model.name}[._]data*"))
        yield from (root / name for name in (TOKENIZER, *CONFIGURATION) if (root / name).is_file())


def _is_other_part(path: Path, model: Path) -> bool:
    beginning, separator, _ = model.name.partition(_FIRST_PART)
    return bool(separator) and path != model and path.name.startswith(f"{beginning}-") and path.suffix == ".gguf"


def _digest(files: Iterable[Path]) -> str:
    whole = hashlib.blake2b(digest_size=2 * _DIGEST_BYTES)
    for path in files:
        with path.open("rb") as file:
            whole.update(f"{path.name}\0".encode())
            whole.update(hashlib.file_digest(file, "blake2b").digest())
    return whole.hexdigest()


def _name(path: Path, model: Path, root: Path) -> str:
    """That of the folder, or of the file, where that says more than ``model``."""
    if path.is_dir() or model.stem == "model":
        return root.resolve().name
    return model.stem.partition(_FIRST_PART)[0]
