"""Encoders give the vectors that transformers gives, whatever else is in the step."""

import pytest
import torch

from engine_core.model.loader import load_model_runner
from engine_core.outputs import NewRequestData, RequestKey, ScheduledRequest, SchedulerOutput
from ipc.config import CacheConfig, ModelConfig, SchedulerConfig
from ipc.errors import ConfigError
from ipc.messages import Task
from ipc.sampling_params import SamplingParams
from tests.sentence_encoders import FAMILIES, MAX_SEQ_LENGTH, VOCABULARY, reference_states, save_encoder

LENGTHS = [1, 2, 3, 3, 3, 7, 16, 31, MAX_SEQ_LENGTH]
SAMPLING = SamplingParams(max_tokens=1)
POOLED = {"mean": lambda states: states.mean(dim=0), "cls": lambda states: states[0], "last": lambda states: states[-1]}


def load(folder, **settings):
    model = ModelConfig(model=str(folder), device="cpu", threads=1, **settings)
    return load_model_runner(model, CacheConfig(), SchedulerConfig(), lambda stage: None)


def step_of(texts):
    new = [
        NewRequestData(RequestKey(key), tuple(ids), len(ids), SAMPLING, Task.EMBED, ()) for key, ids in texts.items()
    ]
    scheduled = [ScheduledRequest(item.key, 0, len(item.token_ids), (), True) for item in new]
    return SchedulerOutput(1, tuple(new), tuple(scheduled))


def random_texts(lengths=LENGTHS):
    generator = torch.Generator().manual_seed(2)
    return {
        key: torch.randint(len(VOCABULARY), (length,), generator=generator).tolist()
        for key, length in enumerate(lengths)
    }


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request, tmp_path_factory):
    return save_encoder(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return save_encoder(tmp_path_factory.mktemp("bert"))


@pytest.mark.parametrize("pooling", POOLED)
def test_vectors_are_those_of_transformers_batched_and_alone(folder, pooling):
    texts = random_texts()
    runner = load(folder, pooling=pooling)
    assert runner.info.dtype == "float32"
    together = runner.execute(step_of(texts)).embeddings
    for (key, ids), states in zip(texts.items(), reference_states(folder, list(texts.values())), strict=True):
        expected = torch.nn.functional.normalize(POOLED[pooling](states), dim=0)
        alone = runner.execute(step_of({key: ids})).embeddings[key]
        assert together[key] == pytest.approx(expected.tolist(), abs=1e-5)
        assert alone == pytest.approx(expected.tolist(), abs=1e-5)


def test_padding_tokens_inside_of_a_text_count_as_in_transformers(folder):
    texts = {0: [2, 1, 0, 7, 1, 1, 9, 3]}
    (states,) = reference_states(folder, list(texts.values()))
    expected = torch.nn.functional.normalize(states.mean(dim=0), dim=0)
    assert load(folder).execute(step_of(texts)).embeddings[0] == pytest.approx(expected.tolist(), abs=1e-5)


def test_an_unnormalized_model_gives_the_pooled_states_as_they_are(tmp_path):
    folder = save_encoder(tmp_path, pooling="cls_token", is_normalized=False)
    texts = random_texts([5])
    (states,) = reference_states(folder, list(texts.values()))
    runner = load(folder)
    assert runner.info.pooling == "cls"
    assert runner.execute(step_of(texts)).embeddings[0] == pytest.approx(states[0].tolist(), abs=1e-4)


def test_a_vector_that_is_not_finite_fails_its_request_only(bert):
    runner = load(bert)
    texts = {1: [2, 9, 3], 2: [2, 8, 3], 3: [2, 9, 9, 3]}
    runner._network._weights.words[8] = torch.nan
    output = runner.execute(step_of(texts))
    assert output.failures == {2: "nan_embedding"}
    assert set(output.embeddings) == {1, 3}


def test_a_part_of_a_text_is_refused(bert):
    step = step_of({1: [2, 9, 3]})
    part = ScheduledRequest(RequestKey(1), 0, 2, (), False)
    with pytest.raises(ValueError, match="2 of 3 tokens"):
        load(bert).execute(SchedulerOutput(1, step.new_requests, (part,)))


def test_facts(bert):
    info = load(bert).info
    assert (info.max_model_len, info.num_blocks, info.embedding_size, info.is_encoder) == (MAX_SEQ_LENGTH, 0, 48, True)
    assert (info.pooling, info.vocab_size, info.eos_token_ids) == ("mean", len(VOCABULARY), ())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quantization": "int8"}, "--quantization int8"),
        ({"model_impl": "transformers"}, "--model-impl transformers"),
        ({"max_model_len": 200}, "at most 66"),
    ],
)
def test_settings_that_cannot_be_kept_are_refused(bert, settings, message):
    with pytest.raises(ConfigError, match=message):
        load(bert, **settings)
