"""What the floor of a step consists of."""

import json

import pytest
import torch

from engine_core.model.decoder.config import DecoderConfig
from fast_inference.bench.step_floor import LinearFloor, kv_bytes
from tests.engine_core.model.decoder.families import save_model


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> DecoderConfig:
    """3 layers, 2 heads of keys and values of 32 each; layers see 12 tokens back."""
    folder = tmp_path_factory.mktemp("model")
    save_model("mistral", folder)
    config = DecoderConfig.try_from(json.loads((folder / "config.json").read_text()))
    assert config is not None
    return config


def test_keys_and_values_are_read_as_far_back_as_the_layers_see(config):
    bytes_of_a_token = 3 * 2 * 2 * 32 * 2
    assert kv_bytes(config, torch.bfloat16, num_seqs=5, context=10) == 5 * 10 * bytes_of_a_token
    assert kv_bytes(config, torch.bfloat16, num_seqs=5, context=100) == 5 * 12 * bytes_of_a_token


@pytest.mark.parametrize("quantization", ["none", "int8", "int8-dynamic"])
def test_every_linear_layer_of_every_layer_is_multiplied(config, quantization):
    floor = LinearFloor(config, torch.bfloat16, quantization, num_rows=4)
    products = [layer() for layer in (*floor._layers, floor._head)]
    of_a_layer = [(6 + 2 * 2) * 32, 60, 2 * 96, 60]
    assert [product.shape for product in products] == [(4, columns) for columns in (*of_a_layer * 3, 199)]
    assert all(product.dtype == torch.bfloat16 for product in products)
