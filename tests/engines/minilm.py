"""all-MiniLM-L6-v2 as a folder with an ONNX model: weights from a package, in the graph that BERT is."""

import shutil
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file

LAYERS, HEADS, WIDTH = 6, 12, 384
BESIDE = ("tokenizer.json", "tokenizer_config.json", "config.json", "sentence_bert_config.json", "modules.json")
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def write_minilm(source: Path, folder: Path) -> Path:
    """Write the model whose weights and tokenizer are in ``source`` to ``folder``, named as exporters name them."""
    folder.mkdir()
    for name in BESIDE:
        shutil.copy(source / name, folder / name)
    shutil.copytree(source / "1_Pooling", folder / "1_Pooling")
    onnx.save(_model(load_file(source / "model.safetensors")), folder / "model.onnx")
    return folder


class Graph:
    """Collects nodes and constants: ``graph("Add", a, b)`` answers the name of the sum."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._numbers = count()

    def __call__(self, operation: str, *inputs: str, **attributes: Any) -> str:
        name = f"{operation}_{next(self._numbers)}"
        self.nodes.append(helper.make_node(operation, inputs, [name], **attributes))
        return name

    def constant(self, values: Any) -> str:
        name = f"constant_{next(self._numbers)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name


class Bert:
    """The layers of BERT over named weights."""

    def __init__(self, weights: Mapping[str, np.ndarray]) -> None:
        self.graph = Graph()
        self._weights = weights
        self._per_head = self.graph.constant(np.array([0, 0, HEADS, WIDTH // HEADS]))
        self._joined = self.graph.constant(np.array([0, 0, WIDTH]))
        self._root = self.graph.constant(np.float32(np.sqrt(WIDTH / HEADS)))

    def embedded(self) -> str:
        one, two = self.graph.constant(np.array([1])), self.graph.constant(np.array([2]))
        length = self.graph("Slice", self.graph("Shape", "input_ids"), one, two)
        positions = self.graph("Slice", self._table("position"), self.graph.constant(np.array([0])), length)
        kinds = self.graph("Gather", self._table("token_type"), "token_type_ids")
        words = self.graph("Gather", self._table("word"), "input_ids")
        return self._normalised(self.graph("Add", self.graph("Add", words, kinds), positions), "embeddings")

    def masked(self) -> str:
        seen = self.graph("Cast", "attention_mask", to=TensorProto.BOOL)
        wide = self.graph("Unsqueeze", seen, self.graph.constant(np.array([1, 2])))
        return self.graph("Where", wide, self.graph.constant(np.float32(0)), self.graph.constant(np.float32(-1e9)))

    def layer(self, hidden: str, mask: str, name: str) -> str:
        attended = self._attended(hidden, mask, f"{name}.attention.self")
        attended = self._linear(attended, f"{name}.attention.output.dense")
        middle = self._normalised(self.graph("Add", attended, hidden), f"{name}.attention.output")
        wide = self.graph("Gelu", self._linear(middle, f"{name}.intermediate.dense"))
        return self._normalised(self.graph("Add", self._linear(wide, f"{name}.output.dense"), middle), f"{name}.output")

    def _attended(self, hidden: str, mask: str, name: str) -> str:
        query, key, value = (
            self.graph(
                "Transpose", self.graph("Reshape", self._linear(hidden, f"{name}.{part}"), self._per_head), perm=axes
            )
            for part, axes in (("query", [0, 2, 1, 3]), ("key", [0, 2, 3, 1]), ("value", [0, 2, 1, 3]))
        )
        scores = self.graph("Add", self.graph("Div", self.graph("MatMul", query, key), self._root), mask)
        mixed = self.graph("MatMul", self.graph("Softmax", scores, axis=-1), value)
        return self.graph("Reshape", self.graph("Transpose", mixed, perm=[0, 2, 1, 3]), self._joined)

    def _linear(self, hidden: str, name: str) -> str:
        weight = self.graph.constant(self._weights[f"{name}.weight"].T)
        return self.graph(
            "Add", self.graph("MatMul", hidden, weight), self.graph.constant(self._weights[f"{name}.bias"])
        )

    def _normalised(self, hidden: str, name: str) -> str:
        scale, bias = (self.graph.constant(self._weights[f"{name}.LayerNorm.{part}"]) for part in ("weight", "bias"))
        return self.graph("LayerNormalization", hidden, scale, bias, epsilon=1e-12)

    def _table(self, name: str) -> str:
        return self.graph.constant(self._weights[f"embeddings.{name}_embeddings.weight"])


def _model(weights: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    bert = Bert(weights)
    hidden, mask = bert.embedded(), bert.masked()
    for number in range(LAYERS):
        hidden = bert.layer(hidden, mask, f"encoder.layer.{number}")
    bert.graph.nodes.append(helper.make_node("Identity", [hidden], ["last_hidden_state"]))
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"]) for name in INPUTS]
    output = helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["batch", "tokens", WIDTH])
    graph = helper.make_graph(bert.graph.nodes, "minilm", inputs, [output], bert.graph.constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    return model
