"""An adapter on each kind of layer that the decoder has: fused files, biases, norms behind, other activations."""

import numpy as np
import pytest
import torch

from engine_core.config_values import read_json_object
from engine_core.model.attention import build_attention_metadata
from engine_core.model.decoder.config import DecoderConfig
from engine_core.model.decoder.load import load_decoder
from engine_core.model.decoder.native_network import NativeDecoderNetwork
from engine_core.model.kv_tensors import allocate_kv_tensors
from engine_core.model.lora.adapter_files import open_adapters
from engine_core.model.lora.adapter_weights import load_adapter
from engine_core.model.lora.step_adapters import StepAdapters
from engine_core.model.network import flat_batch
from engine_core.model.request_span import RequestSpan
from fast_inference.minimal_llm_conversion import convert_minimal_llm
from ipc.config import ModelConfig
from tests.engine_core.model.decoder.families import save_model
from tests.lora_adapters import make_adapter, merge_adapter
from tests.minimal_llm import save_checkpoint

NUM_TOKENS = 40
CPU = torch.device("cpu")


def network_of(folder, dtype=torch.float32, lora=(), **how):
    model = ModelConfig(model=str(folder), lora=lora)
    adapters = [load_adapter(files, dtype, CPU) for files in open_adapters(model)]
    config = DecoderConfig.try_from(read_json_object(folder / "config.json"))
    return config, load_decoder(config, folder, dtype, CPU, 64, adapters=adapters, **how)


def hidden_states(config, network, dtype=torch.float32, adapters=(-1,), num_tokens=NUM_TOKENS):
    """Of requests with the same tokens, one for each of the adapters, in one step."""
    kv_tensors = allocate_kv_tensors(config, num_blocks=3 * len(adapters), block_size=16, dtype=dtype, device=CPU)
    spans = [
        RequestSpan(row * num_tokens, num_tokens, 0, np.arange(3 * row, 3 * row + 3, dtype=np.int32), 16)
        for row in range(len(adapters))
    ]
    ids = np.tile(np.arange(num_tokens, dtype=np.int64) * 5 % 190, len(adapters))
    positions = np.tile(np.arange(num_tokens, dtype=np.int64), len(adapters))
    step = StepAdapters(np.repeat(np.array(adapters, dtype=np.int32), num_tokens)) if max(adapters) >= 0 else None
    with torch.inference_mode():
        metadata = build_attention_metadata(spans, kv_tensors, step)
        return flat_batch(network, ids, positions, metadata, kv_tensors).clone()


@pytest.mark.parametrize("use_kernels", [True, False], ids=["kernels", "torch"])
@pytest.mark.parametrize("family", ["llama-tied-biased", "qwen3", "phi3", "gemma3", "minimal-llm"])
def test_an_adapter_computes_what_merged_weights_do(family, use_kernels, tmp_path):
    model = tmp_path / "model"
    if family == "minimal-llm":
        save_checkpoint(tmp_path / "model.pt", "C", d_ff=112)
        convert_minimal_llm(tmp_path / "model.pt", model, "interleaved")
    else:
        save_model(family, model)
    adapter = make_adapter(tmp_path / "a", model)
    merged = network_of(merge_adapter(tmp_path / "merged", model, adapter), use_kernels=use_kernels)
    config, network = network_of(model, lora=(f"a={adapter}",), use_kernels=use_kernels)
    assert isinstance(network, NativeDecoderNetwork) is use_kernels
    plain, adapted = hidden_states(config, network, adapters=(-1, 0)).split(NUM_TOKENS)
    expected = hidden_states(*merged)
    assert (adapted - expected).norm() < 1e-4 * expected.norm()
    assert (adapted - plain).norm() > 0.1 * plain.norm()


@pytest.mark.parametrize("quantization", ["none", "int8", "int8-dynamic", "int4"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_have_the_same_bits_in_any_company(quantization, dtype, tmp_path):
    model = tmp_path / "model"
    save_model("gemma3", model)
    lora = tuple(f"{seed}={make_adapter(tmp_path / str(seed), model, seed=seed, rank=4 * seed)}" for seed in (1, 2))
    config, network = network_of(model, dtype, lora, quantization=quantization)
    assert isinstance(network, NativeDecoderNetwork)
    together = hidden_states(config, network, dtype, (1, -1, 0, 0, -1)).split(NUM_TOKENS)
    for adapter, states in zip((1, -1, 0, 0, -1), together, strict=True):
        assert torch.equal(hidden_states(config, network, dtype, (adapter,))[:NUM_TOKENS], states)
        assert torch.equal(hidden_states(config, network, dtype, (adapter,), num_tokens=1)[0], states[0])
