"""A changed config is either left to transformers or computed as transformers computes it.

Many keys of each family's config are left out or get values of every kind, right and wrong. For what the decoder
accepts, a small random model of that config is made by transformers, which must give the same logits.
"""

import copy
import json

import numpy as np
import pytest
import torch
import transformers

from engine_core.memory_plan import read_model_shape
from engine_core.model.decoder.config import DecoderConfig
from engine_core.model.decoder.network import DecoderNetwork
from engine_core.model.decoder.weights import load_decoder_weights
from engine_core.model.kv_tensors import allocate_kv_tensors
from engine_core.model.network import chunk_logits
from tests.engine_core.model.decoder.config_changes import ABSENT, BASES, COMBINATIONS, KEYS, RIGHT, ROPES, SIZES, WRONG
from tests.engine_core.model.decoder.families import disturb

CPU = torch.device("cpu")
NUM_TOKENS = 24
TOKEN_IDS = np.array([(7 * number) % 50 + 3 for number in range(NUM_TOKENS)], dtype=np.int64)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Models this small are slower with more, above all beside other work."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture
def is_computed(tmp_path):
    """Whether a family's changed config is accepted; fails if what the decoder then computes or plans is not right."""

    def check(family, changes):
        values = changed(family, changes)
        config = DecoderConfig.try_from(values)
        if config is not None:
            try:
                compare(config, values, tmp_path)
            except Exception as error:
                error.add_note(f"{family} with {changes}")
                raise
        return config is not None

    return check


def changed(family, changes):
    model_type = "gemma3_text" if family == "Gemma3" else family.lower()
    names = {"architectures": [f"{family}ForCausalLM"], "model_type": model_type}
    values = {**SIZES, **BASES[family], **names, **changes}
    return copy.deepcopy({key: value for key, value in values.items() if value is not ABSENT})


@torch.inference_mode()
def compare(config, values, folder):
    """Fail if transformers refuses the config, or gives other logits, or the KV cache would be planned otherwise."""
    (folder / "config.json").write_text(json.dumps(values))
    torch.manual_seed(7)
    model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.from_pretrained(folder))
    disturb(model.float()).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(values))
    expected = model(torch.from_numpy(TOKEN_IDS)[None]).logits[0]
    network = DecoderNetwork(config, load_decoder_weights(folder, config, torch.float32, CPU), NUM_TOKENS)
    kv_tensors = allocate_kv_tensors(config, num_blocks=2, block_size=16, dtype=torch.float32, device=CPU)
    actual = chunk_logits(network, TOKEN_IDS, 0, np.array([1, 0], dtype=np.int32), kv_tensors)
    assert (actual - expected).abs().max() < 1e-4 * expected.abs().max()
    shape = read_model_shape(folder)
    assert (shape.num_kv_heads, shape.head_dim) == (config.num_kv_heads, config.head_dim)


@pytest.mark.parametrize("family", BASES)
@pytest.mark.parametrize("key", KEYS)
def test_a_changed_value_is_refused_or_computed_alike(is_computed, family, key):
    for value in [*WRONG, *RIGHT.get(key, [])]:
        is_computed(family, {key: value})


@pytest.mark.parametrize("family", BASES)
@pytest.mark.parametrize("name", COMBINATIONS)
def test_changed_values_are_refused_or_computed_alike(is_computed, family, name):
    changes, families = COMBINATIONS[name]
    assert is_computed(family, changes) == (family in families)


@pytest.mark.parametrize("family", BASES)
@pytest.mark.parametrize("name", ROPES)
def test_a_changed_rope_is_refused_or_computed_alike(is_computed, family, name):
    parameters, families = ROPES[name]
    assert is_computed(family, {"rope_parameters": parameters}) == (family in families)
    for key in parameters:
        for value in WRONG:
            others = {other: parameters[other] for other in parameters if other != key}
            is_computed(family, {"rope_parameters": others if value is ABSENT else {**others, key: value}})


@pytest.mark.parametrize("family", BASES)
def test_all_that_may_be_left_out_can_be_left_out_together(is_computed, family):
    needed = {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"}
    needed |= {"num_key_value_heads", "head_dim", "pad_token_id", "eos_token_id", "initializer_range"}
    assert is_computed(family, {key: ABSENT for key in {**SIZES, **BASES[family]} if key not in needed})
