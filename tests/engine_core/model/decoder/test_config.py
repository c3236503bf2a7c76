"""Which configs the decoder takes, and which are left to transformers."""

import json

import pytest

from engine_core.model.decoder.config import DecoderConfig
from tests.engine_core.model.decoder.families import FAMILIES, save_model


@pytest.fixture(scope="module")
def config_values(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    save_model("llama", folder)
    return json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize(
    "change",
    [
        {"architectures": ["LlamaForSequenceClassification"]},
        {"architectures": ["LlamaForCausalLM", "MistralForCausalLM"]},
        {"hidden_act": "gelu"},
        {"mlp_bias": True},
        {"sliding_window": 12},
        {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 8.0}},
        {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0}},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "surprise": 0.5}},
        {"quantization_config": {"bits": 4}},
        {"rms_norm_eps": None},
    ],
    ids=str,
)
def test_an_unusual_config_is_left_to_transformers(config_values, change):
    assert DecoderConfig.try_from(config_values) is not None
    assert DecoderConfig.try_from({**config_values, **change}) is None


def test_older_files_name_their_rope_differently(config_values):
    parameters = {"rope_type": "linear", "rope_theta": 500.0, "factor": 2.0}
    newer = {**config_values, "rope_parameters": parameters}
    older = {**config_values, "rope_theta": 500.0, "rope_scaling": {"type": "linear", "factor": 2.0}}
    del older["rope_parameters"]
    assert DecoderConfig.try_from(older) == DecoderConfig.try_from(newer) is not None


def test_gemma_has_kinds_of_layers(tmp_path):
    assert "gemma3" in FAMILIES
    save_model("gemma3", tmp_path)
    config = DecoderConfig.try_from(json.loads((tmp_path / "config.json").read_text()))
    assert config.sliding_windows == (12, None, 12)
    assert config.rope_of_layer == (1, 0, 1)
