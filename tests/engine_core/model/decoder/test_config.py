"""Which configs the decoder takes, and which are left to transformers."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine_core.model.decoder.config import DecoderConfig
from tests.engine_core.model.decoder.config_changes import KEYS
from tests.engine_core.model.decoder.families import FAMILIES, save_model

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["linear", "yarn", "sliding_attention"]),
    lambda values: (
        st.lists(values, max_size=3)
        | st.dictionaries(st.sampled_from(["rope_type", "type", "factor", "full_attention"]), values, max_size=3)
    ),
    max_leaves=6,
)


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


@given(changes=st.dictionaries(st.sampled_from(KEYS), JSON, max_size=4), name=st.sampled_from(list(FAMILIES)))
def test_no_config_is_too_strange_to_be_read(config_values, changes, name):
    kind = FAMILIES[name][0]
    names = {"architectures": [f"{kind}ForCausalLM"], "model_type": "gemma3_text" if kind == "Gemma3" else kind.lower()}
    config = DecoderConfig.try_from({**config_values, **names, **changes})
    assert config is None or config.num_heads % config.num_kv_heads == 0


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
