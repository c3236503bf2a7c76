"""An encoder in an engine core: every text ends once, and a step that fails takes only those at fault."""

import pytest
import torch

from engine_core.model.encoder.network import EncoderNetwork
from engine_core.model.loader import load_model_runner
from ipc.config import CacheConfig, ModelConfig, SchedulerConfig
from ipc.messages import FinishReason, Task
from tests.factories import CoreHarness
from tests.sentence_encoders import MAX_SEQ_LENGTH, reference_states, save_encoder

BAD_TOKEN = 77
TEXTS = [[2, *(5 + (number + place) % 60 for place in range(1 + 7 * number % 40)), 3] for number in range(30)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_encoder(tmp_path_factory.mktemp("bert"))


@pytest.fixture
def runner(folder):
    model = ModelConfig(model=str(folder), device="cpu", threads=1)
    return load_model_runner(model, CacheConfig(), SchedulerConfig(), lambda stage: None)


@pytest.fixture(scope="module")
def expected(folder):
    states = reference_states(folder, TEXTS)
    return [torch.nn.functional.normalize(item.mean(dim=0), dim=0).tolist() for item in states]


def test_all_texts_end_with_their_vectors_whatever_fits_into_a_step(runner, expected):
    harness = CoreHarness(runner, max_num_batched_tokens=MAX_SEQ_LENGTH + 5)
    ids = [harness.add(text, Task.EMBED) for text in TEXTS]
    harness.step()
    assert 0 < len(harness.finished) < len(TEXTS)
    harness.run()
    harness.check_idle()
    for request_id, vector in zip(ids, expected, strict=True):
        assert harness.finished[request_id].reason is FinishReason.STOP
        assert harness.embeddings[request_id] == pytest.approx(vector, abs=1e-5)


@pytest.mark.parametrize(
    ("error", "code"), [(RuntimeError("injected"), "step_failed"), (MemoryError(), "out_of_memory")]
)
def test_a_text_that_breaks_a_step_ends_alone(runner, expected, monkeypatch, error, code):
    forward = EncoderNetwork.hidden_states

    def fail(network, input_ids, groups):
        if (input_ids == BAD_TOKEN).any():
            raise error
        return forward(network, input_ids, groups)

    monkeypatch.setattr(EncoderNetwork, "hidden_states", fail)
    harness = CoreHarness(runner, max_num_batched_tokens=256, max_num_seqs=32)
    bad = harness.add([2, *[BAD_TOKEN] * (MAX_SEQ_LENGTH - 2), 3], Task.EMBED)
    ids = [harness.add(text, Task.EMBED) for text in TEXTS]
    harness.run()
    harness.check_idle()
    assert harness.finished[bad].error_code == code
    for request_id, vector in zip(ids, expected, strict=True):
        assert harness.embeddings[request_id] == pytest.approx(vector, abs=1e-5)
