"""The decoder on a GPU against plain torch on the CPU (which is tested against transformers), every family."""

import json
from functools import cache

import numpy as np
import pytest
import torch

from engine_core.model.decoder.config import DecoderConfig
from engine_core.model.decoder.network import DecoderNetwork
from engine_core.model.decoder.weights import load_decoder_weights
from engine_core.model.kv_tensors import allocate_kv_tensors
from engine_core.model.network import chunk_logits
from tests.engine_core.model.decoder.families import FAMILIES, save_model

pytestmark = pytest.mark.gpu

MAX_MODEL_LEN = 256
BLOCK_SIZE, NUM_BLOCKS = 16, 32
TOKEN_IDS = np.array([(7 * number) % 190 + 3 for number in range(150)], dtype=np.int64)
BLOCK_IDS = np.array([(number * 7 + 3) % NUM_BLOCKS for number in range(10)], dtype=np.int32)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """For the name of a family: its folder, and the logits of plain torch on the CPU in fp32."""

    @cache
    def made(name):
        folder = tmp_path_factory.mktemp(name)
        save_model(name, folder)
        return folder, logits_of(folder, [150], torch.float32, DecoderNetwork, "cpu")

    return made


@torch.inference_mode()
def logits_of(folder, chunks, dtype, network_class, kind="cuda"):
    """Logits of all tokens, computed in chunks of these sizes."""
    device = torch.device(kind)
    config = DecoderConfig.try_from(json.loads((folder / "config.json").read_text()))
    weights = load_decoder_weights(folder, config, dtype, device)
    network = network_class(config, weights, MAX_MODEL_LEN)
    kv_tensors = allocate_kv_tensors(config, num_blocks=NUM_BLOCKS, block_size=BLOCK_SIZE, dtype=dtype, device=device)
    logits, start = [], 0
    for size in chunks:
        logits.append(chunk_logits(network, TOKEN_IDS[start : start + size], start, BLOCK_IDS, kv_tensors).clone())
        start += size
    return torch.cat(logits).float().cpu()


@pytest.fixture
def triton_network():
    from engine_core.model.decoder.triton_network import TritonDecoderNetwork

    return TritonDecoderNetwork


def difference(actual, expected):
    return float((actual - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("name", FAMILIES)
def test_all_logits_equal_those_of_the_cpu(reference, triton_network, name):
    folder, expected = reference(name)
    assert difference(logits_of(folder, [70, 77, 2, 1], torch.float32, triton_network), expected) < 1e-4


@pytest.mark.parametrize("name", ["llama", "gemma2", "gemma3"])
def test_in_bf16_they_are_as_close_as_bf16_is(reference, triton_network, name):
    folder, expected = reference(name)
    assert difference(logits_of(folder, [149, 1], torch.bfloat16, triton_network), expected) < 0.08


def test_plain_torch_layers_run_on_a_gpu_too(reference):
    folder, expected = reference("qwen3")
    assert difference(logits_of(folder, [70, 79, 1], torch.float32, DecoderNetwork), expected) < 1e-4
