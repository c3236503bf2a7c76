"""The tables are transformers' own, to the bit, and end where they would depend on the request."""

import json

import pytest
import torch

from engine_core.model.decoder.config import DecoderConfig
from engine_core.model.decoder.rope import check_length, rotary_tables
from ipc.errors import ConfigError
from tests.engine_core.model.decoder.families import FAMILIES, save_model

LENGTH = 256


@pytest.fixture
def made(tmp_path):
    """For the name of a family: the config that is read, and transformers' rotary embedding."""

    def make(name):
        model = save_model(name, tmp_path)
        return DecoderConfig.try_from(json.loads((tmp_path / "config.json").read_text())), model.model.rotary_emb

    return make


@pytest.mark.parametrize("name", [name for name in FAMILIES if not name.startswith("gemma3")])
def test_tables_have_the_bits_of_transformers(made, name):
    config, rotary_embedding = made(name)
    cos, sin = rotary_embedding(torch.zeros(1), torch.arange(LENGTH)[None])
    half = config.ropes[0].rotary_dim // 2
    actual_cos, actual_sin = rotary_tables(config.ropes[0], LENGTH)
    assert torch.equal(actual_cos, cos[0, :, :half])
    assert torch.equal(actual_sin, sin[0, :, :half])


@pytest.mark.parametrize(("index", "kind"), [(0, "full_attention"), (1, "sliding_attention")])
def test_both_tables_of_gemma3_do_too(made, index, kind):
    config, rotary_embedding = made("gemma3")
    cos, _ = rotary_embedding(torch.zeros(1), torch.arange(LENGTH)[None], kind)
    assert torch.equal(rotary_tables(config.ropes[index], LENGTH)[0], cos[0, :, :16])


def test_longrope_ends_at_its_first_length(made):
    config, _ = made("phi3-longrope")
    check_length(config.ropes[0], LENGTH)
    with pytest.raises(ConfigError, match="--max-model-len 256"):
        check_length(config.ropes[0], LENGTH + 1)
    with pytest.raises(ConfigError, match="--max-model-len 256"):
        rotary_tables(config.ropes[0], LENGTH + 1)
