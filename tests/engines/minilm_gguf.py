"""all-MiniLM-L6-v2 as a GGUF file, named as llama.cpp names the parts of BERT."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import load_file

from tests.engines.minilm import HEADS, LAYERS, WIDTH

SPECIAL = {"unk": 100, "bos": 101, "eos": 102, "mask": 103, "pad": 0}
EMBEDDINGS = {
    "token_embd.weight": "word_embeddings.weight",
    "position_embd.weight": "position_embeddings.weight",
    "token_types.weight": "token_type_embeddings.weight",
    "token_embd_norm.weight": "LayerNorm.weight",
    "token_embd_norm.bias": "LayerNorm.bias",
}
LAYER = {
    "attn_q": "attention.self.query",
    "attn_k": "attention.self.key",
    "attn_v": "attention.self.value",
    "attn_output": "attention.output.dense",
    "attn_output_norm": "attention.output.LayerNorm",
    "ffn_up": "intermediate.dense",
    "ffn_down": "output.dense",
    "layer_output_norm": "output.LayerNorm",
}


def write_minilm_gguf(source: Path, path: Path) -> Path:
    """Write the model whose weights and vocabulary are in ``source`` to ``path``."""
    writer = gguf.GGUFWriter(str(path), "bert")
    _write_facts(writer)
    _write_vocabulary(writer, (source / "vocab.txt").read_text(encoding="utf-8").splitlines())
    for name, tensor in _tensors(load_file(source / "model.safetensors")).items():
        writer.add_tensor(name, np.ascontiguousarray(tensor))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _write_facts(writer: gguf.GGUFWriter) -> None:
    writer.add_block_count(LAYERS)
    writer.add_context_length(512)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(4 * WIDTH)
    writer.add_head_count(HEADS)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(value=False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)


def _write_vocabulary(writer: gguf.GGUFWriter, words: Sequence[str]) -> None:
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([_piece(word) for word in words])
    writer.add_token_types([gguf.TokenType.CONTROL if _is_special(word) else gguf.TokenType.NORMAL for word in words])
    writer.add_token_type_count(2)
    for name, number in SPECIAL.items():
        getattr(writer, f"add_{name}_token_id")(number)


def _piece(word: str) -> str:
    """There the beginning of a word is marked, in BERT's vocabulary its continuation."""
    if _is_special(word):
        return word
    return word.removeprefix("##") if word.startswith("##") else f"\u2581{word}"


def _is_special(word: str) -> bool:
    return word.startswith("[") and word.endswith("]")


def _tensors(weights: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    embeddings = {name: weights[f"embeddings.{given}"] for name, given in EMBEDDINGS.items()}
    layers = {
        f"blk.{number}.{name}.{part}": weights[f"encoder.layer.{number}.{given}.{part}"]
        for number in range(LAYERS)
        for name, given in LAYER.items()
        for part in ("weight", "bias")
    }
    return embeddings | layers
