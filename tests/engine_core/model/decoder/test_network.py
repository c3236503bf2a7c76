"""The decoder against transformers' own models: both of its networks, every family."""

import json
from functools import cache

import numpy as np
import pytest
import torch

from engine_core.model.attention import build_attention_metadata
from engine_core.model.decoder.config import DecoderConfig
from engine_core.model.decoder.native_network import NativeDecoderNetwork
from engine_core.model.decoder.network import DecoderNetwork
from engine_core.model.decoder.weights import load_decoder_weights
from engine_core.model.kernels.bindings import Format, load_library
from engine_core.model.kernels.build import kernel_library
from engine_core.model.kv_tensors import allocate_kv_tensors
from engine_core.model.network import chunk_logits, flat_batch
from engine_core.model.request_span import RequestSpan
from tests.engine_core.model.decoder.families import FAMILIES, save_model

CPU = torch.device("cpu")
MAX_MODEL_LEN = 256
BLOCK_SIZE, NUM_BLOCKS = 16, 32
TOKEN_IDS = np.array([(7 * number) % 190 + 3 for number in range(150)], dtype=np.int64)
BLOCK_IDS = np.array([(number * 7 + 3) % NUM_BLOCKS for number in range(10)], dtype=np.int32)
FORMATS = {torch.float32: Format.FLOAT32, torch.bfloat16: Format.BF16}


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """For the name of a family: its folder, and the logits of transformers' model in fp32."""

    @cache
    def made(name):
        folder = tmp_path_factory.mktemp(name)
        model = save_model(name, folder)
        with torch.inference_mode():
            return folder, model(torch.from_numpy(TOKEN_IDS)[None]).logits[0]

    return made


def make_network(folder, kind, dtype=torch.float32, format=None):
    config = DecoderConfig.try_from(json.loads((folder / "config.json").read_text()))
    weights = load_decoder_weights(folder, config, dtype, CPU)
    if kind == "torch":
        return config, DecoderNetwork(config, weights, MAX_MODEL_LEN)
    format = format or FORMATS[dtype]
    library = load_library(kernel_library())
    return config, NativeDecoderNetwork(
        config, weights, library, format=format, head_format=FORMATS[dtype], max_model_len=MAX_MODEL_LEN
    )


@torch.inference_mode()
def logits_of(config, network, chunks, dtype=torch.float32):
    """Logits of all tokens, computed in chunks of these sizes."""
    kv_tensors = allocate_kv_tensors(config, num_blocks=NUM_BLOCKS, block_size=BLOCK_SIZE, dtype=dtype, device=CPU)
    logits, start = [], 0
    for size in chunks:
        chunk = TOKEN_IDS[start : start + size]
        logits.append(chunk_logits(network, chunk, start, BLOCK_IDS, kv_tensors).clone())
        start += size
    return torch.cat(logits).float()


def difference(actual, expected):
    return float((actual - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("kind", ["torch", "kernels"])
@pytest.mark.parametrize("name", FAMILIES)
def test_all_logits_equal_those_of_transformers(reference, name, kind):
    folder, expected = reference(name)
    config, network = make_network(folder, kind)
    assert difference(logits_of(config, network, [70, 79, 1]), expected) < 1e-4


@pytest.mark.parametrize("kind", ["torch", "kernels"])
@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_in_bf16_they_are_as_close_as_bf16_is(reference, name, kind):
    folder, expected = reference(name)
    config, network = make_network(folder, kind, torch.bfloat16)
    assert difference(logits_of(config, network, [150], torch.bfloat16), expected) < 0.08


@torch.inference_mode()
def test_on_the_kernels_a_request_has_the_same_bits_alone_in_a_batch_and_in_chunks(reference):
    folder, _ = reference("gemma3")
    config, network = make_network(folder, "kernels", torch.bfloat16)
    alone = logits_of(config, network, [149, 1], torch.bfloat16)
    assert torch.equal(logits_of(config, network, [70, 79, 1], torch.bfloat16), alone)
    kv_tensors = allocate_kv_tensors(
        config, num_blocks=NUM_BLOCKS, block_size=BLOCK_SIZE, dtype=torch.bfloat16, device=CPU
    )
    other = np.setdiff1d(np.arange(NUM_BLOCKS, dtype=np.int32), BLOCK_IDS)
    spans = [RequestSpan(0, 33, 0, other, BLOCK_SIZE), RequestSpan(33, 150, 0, BLOCK_IDS, BLOCK_SIZE)]
    metadata = build_attention_metadata(spans, kv_tensors)
    token_ids = np.concatenate([TOKEN_IDS[50:83], TOKEN_IDS])
    positions = np.concatenate([np.arange(33), np.arange(150)])
    together = network.logits(flat_batch(network, token_ids, positions, metadata, kv_tensors))
    assert torch.equal(together[33:], alone)


@pytest.mark.parametrize(("format", "tolerance"), [(Format.INT8, 0.1), (Format.DYNAMIC_INT8, 0.2)])
def test_quantized_weights_stay_near(reference, format, tolerance):
    folder, expected = reference("llama")
    config, network = make_network(folder, "kernels", torch.bfloat16, format)
    actual = logits_of(config, network, [150], torch.bfloat16)
    assert (actual - expected).norm() < tolerance * expected.norm()
