import json
from pathlib import Path

import numpy as np
import pytest

from ai_task_processor.domain.errors import ConfigurationError, ProviderUnavailable
from ai_task_processor.providers.local.model import MOST_TOKENS
from ai_task_processor.providers.local.use import POOLING, Use

TOKENS = np.array([[[3.0, 0.0], [0.0, 8.0], [0.0, 4.0]]], dtype=np.float32)
PLAIN = [{"type": "sentence_transformers.models.Transformer"}, {"type": "sentence_transformers.models.Pooling"}]


def use(folder: Path, pooling: object = None, **files: object) -> Use:
    contents = {f"{name}.json": content for name, content in files.items()} | {POOLING: pooling}
    for name, content in contents.items():
        if content is not None:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(json.dumps(content))
    return Use(folder)


@pytest.mark.parametrize(
    ("pooling", "vector"),
    [
        ({"pooling_mode": "mean"}, [1.0, 4.0]),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, [1.0, 4.0]),
        ({"pooling_mode_cls_token": True, "word_embedding_dimension": 2, "include_prompt": True}, [3.0, 0.0]),
        ({"pooling_mode": "cls"}, [3.0, 0.0]),
        ({"pooling_mode_lasttoken": True}, [0.0, 4.0]),
        ({"pooling_mode_max_tokens": True}, [3.0, 8.0]),
    ],
)
def test_pooling_is_what_the_file_says(tmp_path: Path, pooling: object, vector: list[float]) -> None:
    assert use(tmp_path, pooling, modules=PLAIN).vectors(TOKENS).tolist() == [vector]


def test_vectors_have_length_one_unless_the_modules_leave_that_out(tmp_path: Path) -> None:
    mean = {"pooling_mode": "mean"}
    silent = use(tmp_path, mean).vectors(TOKENS)
    assert np.linalg.norm(silent) == pytest.approx(1)
    normalised = use(tmp_path, modules=[*PLAIN, {"type": "sentence_transformers.models.Normalize"}]).vectors(TOKENS)
    assert normalised.tolist() == silent.tolist()


def test_what_is_pooled_already_is_left_as_it_is(tmp_path: Path) -> None:
    vectors = np.array([[3.0, 4.0]], dtype=np.float32)
    assert use(tmp_path, modules=[*PLAIN, {"type": "sentence_transformers.models.Dense"}]).vectors(vectors) is vectors


@pytest.mark.parametrize(
    ("pooling", "words"),
    [
        ({"pooling_mode_mean_sqrt_len_tokens": True}, "wants pooling_mode_mean_sqrt_len_tokens; one of mean, cls"),
        ({"pooling_mode": "weightedmean"}, "wants weightedmean; one of mean, cls"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, "wants cls and mean; one of"),
    ],
)
def test_other_poolings_are_refused_at_the_start(tmp_path: Path, pooling: object, words: str) -> None:
    with pytest.raises(ConfigurationError, match=f"LOCAL_MODEL_PATH: 1_Pooling/config.json {words}"):
        use(tmp_path, pooling)


@pytest.mark.parametrize("pooling", [None, {}, {"pooling_mode_mean_tokens": False}, ["mean"]], ids=str)
def test_nothing_is_guessed_where_no_pooling_is_named(tmp_path: Path, pooling: object) -> None:
    with pytest.raises(ProviderUnavailable, match=r"no 1_Pooling/config\.json to say what is made of them: put it"):
        use(tmp_path, pooling).vectors(TOKENS)


def test_layers_after_the_model_are_not_passed_over(tmp_path: Path) -> None:
    dense = use(tmp_path, {"pooling_mode": "mean"}, modules=[*PLAIN, {"type": "sentence_transformers.models.Dense"}])
    with pytest.raises(ProviderUnavailable, match=r"modules\.json has Dense after the model; export it whole"):
        dense.vectors(TOKENS)


def test_an_output_of_another_shape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProviderUnavailable, match="its output has 1 axes"):
        use(tmp_path).vectors(np.zeros(4, dtype=np.float32))


@pytest.mark.parametrize(
    ("files", "most"),
    [
        ({}, MOST_TOKENS),
        ({"sentence_bert_config": {"max_seq_length": 256}, "tokenizer_config": {"model_max_length": 512}}, 256),
        ({"tokenizer_config": {"model_max_length": 1e30}, "config": {"max_position_embeddings": 512}}, 512),
        ({"config": {"max_position_embeddings": 131_072}}, MOST_TOKENS),
        ({"sentence_bert_config": {"max_seq_length": None}, "config": []}, MOST_TOKENS),
    ],
)
def test_a_text_may_be_as_long_as_the_strictest_file_says(tmp_path: Path, files: dict[str, object], most: int) -> None:
    assert use(tmp_path, **files).most_tokens == most


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text("{")
    with pytest.raises(ConfigurationError, match=r"LOCAL_MODEL_PATH: .*modules\.json cannot be read"):
        Use(tmp_path)
