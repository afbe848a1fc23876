"""How the output of a sentence encoder becomes a vector, by the files that sentence-transformers puts beside it."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import orjson

from ai_task_processor.domain.errors import ProviderUnavailable
from ai_task_processor.providers.local.files import fault
from ai_task_processor.providers.local.model import MOST_TOKENS, Floats

POOLING = "1_Pooling/config.json"

_POOLED, _PER_TOKEN = 2, 3
_POOLINGS = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_max_tokens": "max",
}
_UNDERSTOOD = frozenset({"Transformer", "Pooling", "Normalize"})


class Use:
    """What the files in ``root`` say; ``most_tokens`` is how long a text may be. Raises ConfigurationError."""

    def __init__(self, root: Path) -> None:
        self._modules = _modules(root / "modules.json")
        self._pooling = _pooling(_mapping(root / POOLING))
        self.most_tokens = _most_tokens(root)

    def vectors(self, output: Floats) -> Floats:
        """Of one row for each text, or for each token of each text."""
        if output.ndim == _PER_TOKEN:
            output = _pooled(output, self._expected_pooling())
        elif output.ndim != _POOLED:
            raise ProviderUnavailable(f"its output has {output.ndim} axes instead of 2 or 3")
        return output if self._modules and "Normalize" not in self._modules else _unit(output)

    def _expected_pooling(self) -> str:
        more = [module for module in self._modules if module not in _UNDERSTOOD]
        if more:
            raise ProviderUnavailable(
                f"modules.json has {more[0]} after the model; export it whole, with the output sentence_embedding"
            )
        if self._pooling is None:
            raise ProviderUnavailable(
                f"it gives a vector for each token, and there is no {POOLING} to say what is made of them: "
                'put it beside the tokenizer, with {"pooling_mode": "mean"} or "cls", as the model was trained'
            )
        return self._pooling


def _pooling(config: Mapping[str, object]) -> str | None:
    """By the names of sentence-transformers, old and new; None where nothing is said."""
    said = config.get("pooling_mode")
    modes = [said] if isinstance(said, str) else [_POOLINGS.get(name, name) for name in config if _wants(config, name)]
    if not modes:
        return None
    if len(modes) > 1 or modes[0] not in _POOLINGS.values():
        raise fault(f"{POOLING} wants {' and '.join(modes)}; one of {', '.join(_POOLINGS.values())} can be done")
    return modes[0]


def _wants(config: Mapping[str, object], name: str) -> bool:
    return name.startswith("pooling_mode_") and config[name] is True


def _pooled(output: Floats, pooling: str) -> Floats:
    match pooling:
        case "cls":
            return output[:, 0]
        case "lasttoken":
            return output[:, -1]
        case "max":
            pooled: Floats = output.max(axis=1)
        case _:
            pooled = output.mean(axis=1)
    return pooled


def _unit(vectors: Floats) -> Floats:
    lengths: Floats = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / lengths


def _most_tokens(root: Path) -> int:
    said = (
        _mapping(root / "sentence_bert_config.json").get("max_seq_length"),
        _mapping(root / "tokenizer_config.json").get("model_max_length"),
        _mapping(root / "config.json").get("max_position_embeddings"),
    )
    return min([int(number) for number in said if isinstance(number, int | float) and number >= 1] + [MOST_TOKENS])


def _modules(path: Path) -> list[str]:
    """The kinds of module that make up the model, like Pooling."""
    found = _read(path)
    modules = found if isinstance(found, list) else []
    return [str(module.get("type", "")).rpartition(".")[2] for module in modules if isinstance(module, Mapping)]


def _mapping(path: Path) -> Mapping[str, object]:
    found = _read(path)
    return found if isinstance(found, Mapping) else {}


def _read(path: Path) -> object:
    """What a JSON file holds; None where there is none."""
    try:
        return orjson.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, orjson.JSONDecodeError) as error:
        raise fault(f"{path} cannot be read: {error}") from error
