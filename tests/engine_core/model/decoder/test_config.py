"""Which configs the decoder takes, and which are left to transformers."""

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig

from engine_core.model.decoder.config import DecoderConfig
from tests.engine_core.model.decoder.config_changes import KEYS
from tests.engine_core.model.decoder.families import FAMILIES, save_model
from tests.engine_core.model.decoder.published_configs import PUBLISHED

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
        {"num_hidden_layers": 2**31 - 1},
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


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_are_computed_with_what_transformers_reads(name):
    values = copy.deepcopy(PUBLISHED[name])
    config, theirs = DecoderConfig.try_from(values), AutoConfig.for_model(**values)
    kinds = getattr(theirs, "layer_types", None) or ["sliding_attention"] * config.num_layers
    window = getattr(theirs, "sliding_window", None)
    assert config.sliding_windows == tuple(window if kind == "sliding_attention" else None for kind in kinds)
    for name in ("rms_norm_eps", "tie_word_embeddings", "vocab_size", "hidden_size", "intermediate_size"):
        assert getattr(config, name) == getattr(theirs, name)
    assert config.num_kv_heads == theirs.num_key_value_heads
    ropes = theirs.rope_parameters
    nested = [ropes["full_attention"], ropes["sliding_attention"]] if "full_attention" in ropes else [ropes]
    assert [(rope.rope_type, rope.theta) for rope in config.ropes] == [
        (rope["rope_type"], rope["rope_theta"]) for rope in nested
    ]


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
