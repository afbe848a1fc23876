"""``LOCAL_MODEL_PATH`` with real models: one in ONNX, one in GGUF."""

import shutil
import signal
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from ai_task_processor.domain.errors import ConfigurationError, ProviderRejected
from ai_task_processor.domain.ports import Embeddings
from ai_task_processor.providers.local.files import ModelFiles, find_model
from ai_task_processor.providers.local.gguf import GgufModel
from ai_task_processor.providers.local.model import LocalModel
from ai_task_processor.providers.local.onnx import OnnxModel
from tests.engines import installed
from tests.fakes.daemon import started
from tests.fakes.fleet import CLIENT_ID, CLIENT_SECRET, task_server

pytestmark = pytest.mark.engines


def sentence_encoder(folder: Path, *, truncate: bool = False) -> LocalModel:
    files = find_model(folder)
    return LocalModel(OnnxModel(files, truncate=truncate), model=files.name)


async def embedded(folder: Path, texts: list[str], *, truncate: bool = False) -> Embeddings:
    return await sentence_encoder(folder, truncate=truncate).embed(texts, model="any", dimensions=None)


def numbers(answer: Embeddings) -> np.ndarray:
    return np.stack([np.frombuffer(vector, dtype="<f4") for vector in answer.vectors])


PUBLISHED = {
    "The weather is lovely today.": [1.0, 0.6660, 0.1046],
    "It's so sunny outside!": [0.6660, 1.0, 0.1411],
    "He drove to the stadium.": [0.1046, 0.1411, 1.0],
}
"""The similarities of these texts that the makers of sentence-transformers show for all-MiniLM-L6-v2."""


def similarities(answer: Embeddings) -> np.ndarray:
    vectors = numbers(answer)
    return vectors @ vectors.T


# --- ONNX -------------------------------------------------------------------------------------------------------------


async def test_similarities_are_those_that_the_model_s_makers_publish(minilm: Path) -> None:
    answer = await embedded(minilm, list(PUBLISHED))
    assert similarities(answer) == pytest.approx(np.array(list(PUBLISHED.values())), abs=1e-4)
    assert answer.model.startswith("minilm@")
    assert answer.tokens == 8 + 9 + 8


async def test_a_text_longer_than_the_model_reads_is_refused(minilm: Path) -> None:
    with pytest.raises(ProviderRejected, match=r"it has 302 tokens; minilm@\w+ takes at most 256") as caught:
        await embedded(minilm, ["fine", "word " * 300])
    assert not caught.value.every_input


async def test_a_text_longer_than_the_model_reads_is_cut_on_request(minilm: Path) -> None:
    answer = await embedded(minilm, ["word " * 300, "word " * 254], truncate=True)
    assert answer.vectors[0] == answer.vectors[1]
    assert answer.tokens == 2 * 256


async def test_texts_of_any_length_can_be_mixed(minilm: Path) -> None:
    texts = [f"{'word ' * (number % 7)}{number}" for number in range(40)]
    together = await embedded(minilm, texts)
    model = sentence_encoder(minilm)
    alone = [(await model.embed([text], model="any", dimensions=None)).vectors[0] for text in texts]
    assert together.vectors == tuple(alone)


def damaged(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("model.onnx", b"version https://git-lfs", r"model\.onnx cannot be loaded; was it downloaded whole\?"),
        ("tokenizer.json", b"{}", r"tokenizer\.json cannot be used"),
        ("config.json", b"{", r"config\.json cannot be read"),
        ("1_Pooling/config.json", b"{}", r"cannot embed a word: it gives a vector for each token, and there is no"),
    ],
)
def test_an_onnx_folder_that_cannot_be_used_is_told(
    minilm: Path, tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    copy = shutil.copytree(minilm, tmp_path / "copy")
    with pytest.raises(ConfigurationError, match=f"LOCAL_MODEL_PATH: .*{words}"):
        sentence_encoder(damaged(copy, name, content))


def small(minilm: Path, folder: Path, graph: str) -> ModelFiles:
    """A model of one line beside the tokenizer of a real one."""
    onnx = installed.runtime("onnx")
    folder.mkdir()
    shutil.copy(minilm / "tokenizer.json", folder)
    onnx.save(onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 20]> {graph}'), folder / "model.onnx")
    return find_model(folder)


async def test_a_model_that_pools_by_itself_and_takes_int32(minilm: Path, tmp_path: Path) -> None:
    graph = """
        counting (int32[B, T] input_ids) => (float[B, T] token_embeddings, float[B, 2] sentence_embedding)
        <int64[1] axis = {1}, int32 seven = {1007}> {
            token_embeddings = Cast<to = 1>(input_ids)
            sum = ReduceSum(token_embeddings, axis)
            same = Equal(input_ids, seven)
            hits = Cast<to = 1>(same)
            count = ReduceSum(hits, axis)
            sentence_embedding = Concat<axis = 1>(sum, count)
        }"""
    files = small(minilm, tmp_path / "counting", graph)
    model = LocalModel(OnnxModel(files, truncate=False), model=files.name)
    answer = await model.embed(["a"], model="any", dimensions=None)
    assert numbers(answer).shape == (1, 2)
    assert np.linalg.norm(numbers(answer)) == pytest.approx(1)


def test_a_model_that_asks_for_more_than_a_text_is_refused(minilm: Path, tmp_path: Path) -> None:
    graph = "g (int64[B, T] input_ids, int64[B, T] position_ids) => (int64[B, T] y) {y = Add(input_ids, position_ids)}"
    files = small(minilm, tmp_path / "decoder", graph)
    with pytest.raises(ConfigurationError, match=r"model\.onnx asks for position_ids; a sentence encoder does not"):
        OnnxModel(files, truncate=False)


# --- GGUF -------------------------------------------------------------------------------------------------------------


async def of_language_model(runtime: GgufModel, texts: list[str]) -> Embeddings:
    return await LocalModel(runtime, model="smollm2").embed(texts, model="any", dimensions=None)


async def test_an_embedding_model_pools_and_reads_as_its_file_says(minilm_gguf: Path) -> None:
    files = find_model(minilm_gguf)
    runtime = GgufModel(files, truncate=False)
    model = LocalModel(runtime, model=files.name)
    answer = await model.embed(list(PUBLISHED), model="any", dimensions=None)
    with pytest.raises(ProviderRejected, match=r"it has 602 tokens; minilm@\w+ takes at most 512"):
        await model.embed(["word " * 600], model="any", dimensions=None)
    runtime.close()
    assert similarities(answer) == pytest.approx(np.array(list(PUBLISHED.values())), abs=1e-3)
    assert answer.tokens == 8 + 9 + 8


async def test_a_text_longer_than_a_gguf_model_reads_is_shortened_on_request(minilm_gguf: Path) -> None:
    runtime = GgufModel(find_model(minilm_gguf), truncate=True)
    answer = await LocalModel(runtime, model="minilm").embed(["word " * 600, "fine"], model="any", dimensions=None)
    runtime.close()
    assert 0.9 * 512 < answer.tokens - 3 <= 512


async def test_a_language_model_gives_the_mean_of_its_states(smollm2: GgufModel) -> None:
    answer = await of_language_model(smollm2, ["The cat sat on the mat.", "one", "one "])
    vectors = numbers(answer)
    assert vectors.shape == (3, 576)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    assert len(set(answer.vectors)) == 3
    assert answer.tokens == 7 + 1 + 2


async def test_vectors_are_those_of_llama_cpp_s_server(llama: str, smollm2: GgufModel) -> None:
    texts = ["The cat sat on the mat.", "one"]
    async with httpx2.AsyncClient() as client:
        served = (await client.post(f"{llama}/embeddings", json={"input": texts}, timeout=60)).json()
    vectors = numbers(await of_language_model(smollm2, texts))
    assert vectors == pytest.approx(np.array([item["embedding"] for item in served["data"]]), abs=1e-3)


async def test_a_text_longer_than_llama_cpp_takes_is_refused_before_others_are_computed(smollm2: GgufModel) -> None:
    with pytest.raises(ProviderRejected, match=r"it has 3001 tokens; SmolLM2\S+@\w+ takes at most 2048") as caught:
        await of_language_model(smollm2, ["fine", "word " * 3000])
    assert not caught.value.every_input


async def test_nobody_else_can_use_the_port_that_llama_cpp_opens(smollm2: GgufModel) -> None:
    server: Any = smollm2._server
    assert server.listening_address.startswith("http://127.0.0.1:")
    async with httpx2.AsyncClient() as client:
        answer = await client.post(f"{server.listening_address}/v1/embeddings", json={"input": "a"}, timeout=60)
    assert answer.status_code == 401


@pytest.mark.parametrize("content", [b"version https://git-lfs", b"GGUF" + bytes(64)])
def test_a_gguf_file_that_cannot_be_used_is_told(tmp_path: Path, content: bytes) -> None:
    installed.runtime("xllamacpp")
    (tmp_path / "m.gguf").write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"LOCAL_MODEL_PATH: .*m\.gguf .*was it downloaded whole\?"):
        GgufModel(find_model(tmp_path), truncate=False)


# --- Both -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["onnx", "gguf"])
async def test_the_whole_daemon_embeds_with_it_and_stops(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    path = request.getfixturevalue("minilm") if kind == "onnx" else installed.smollm2()
    texts = ["The cat sat on the mat.", "one", "zwei Wörter"]
    async with task_server(tmp_path) as tasks:
        ids = await tasks.post(texts)
        env = {
            "API_BASE_URL": tasks.url,
            "OAUTH2_TOKEN_URL": f"{tasks.url}/oauth2/token",
            "OAUTH2_CLIENT_ID": CLIENT_ID,
            "OAUTH2_CLIENT_SECRET": CLIENT_SECRET,
            "PROCESSING_MODE": "local",
            "LOCAL_MODEL_PATH": str(path),
            "POLLING_INTERVAL_SECONDS": "0.2",
            "METRICS_PORT": "0",
            "LOG_FORMAT": "json",
        }
        async with started("run", folder=tmp_path, env=env) as daemon:
            await tasks.until("succeeded", len(texts), within=60)
            daemon.send(signal.SIGTERM)
            assert await daemon.ended() == 0
        results = await tasks.results()
    files = find_model(path)
    model = (OnnxModel if kind == "onnx" else GgufModel)(files, truncate=False)
    direct = await LocalModel(model, model=files.name).embed(texts, model="any", dimensions=None)
    model.close()
    assert tuple(np.array(results[one], dtype="<f4").tobytes() for one in ids) == direct.vectors
