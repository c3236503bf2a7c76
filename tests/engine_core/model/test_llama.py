"""Our Llama against transformers' own, and the configs that are left to transformers."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from engine_core.model.attention import RequestSpan, build_attention_metadata
from engine_core.model.kv_tensors import allocate_kv_tensors
from engine_core.model.llama import LlamaConfig, LlamaNetwork
from engine_core.model.network import flat_batch
from ipc.errors import ConfigError

CPU = torch.device("cpu")


@pytest.fixture
def config_values(llama_dir):
    return json.loads((llama_dir / "config.json").read_text())


def load(folder, dtype=torch.float32):
    config = LlamaConfig.try_from(json.loads((folder / "config.json").read_text()))
    return config, LlamaNetwork.load(config, folder, dtype, CPU, max_model_len=128)


@torch.inference_mode()
def logits_of(config, network, token_ids, dtype=torch.float32):
    sizes = {"num_kv_heads": config.num_kv_heads, "head_dim": config.head_dim}
    kv_tensors = allocate_kv_tensors(
        num_layers=config.num_layers, num_blocks=8, block_size=16, dtype=dtype, device=CPU, **sizes
    )
    slots = torch.arange(len(token_ids)).numpy()
    metadata = build_attention_metadata([RequestSpan(0, len(slots), 0, slots, 1)], kv_tensors)
    return network.logits(flat_batch(network, torch.tensor(token_ids).numpy(), slots, metadata, kv_tensors))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])
def test_all_logits_equal_those_of_transformers(llama_dir, dtype, tolerance):
    token_ids = [(7 * number) % 190 + 3 for number in range(100)]
    logits = logits_of(*load(llama_dir, dtype), token_ids, dtype).float()
    reference = AutoModelForCausalLM.from_pretrained(llama_dir, dtype=dtype)
    with torch.inference_mode():
        expected = reference(torch.tensor([token_ids])).logits[0].float()
    assert (logits - expected).abs().max() <= tolerance * expected.abs().max()


def test_an_untied_head_is_read(llama_dir, config_values, tmp_path):
    weights = load_file(llama_dir / "model.safetensors")
    head = torch.randn_like(weights["model.embed_tokens.weight"])
    save_file({**weights, "lm_head.weight": head}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({**config_values, "tie_word_embeddings": False}))
    _, network = load(tmp_path)
    hidden = torch.randn(3, head.shape[1])
    assert torch.equal(network.logits(hidden), hidden @ head.T)


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "mistral"},
        {"architectures": ["LlamaForSequenceClassification"]},
        {"hidden_act": "gelu"},
        {"attention_bias": True},
        {"mlp_bias": True},
        {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
        {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0}},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
        {"quantization_config": {"bits": 4}},
        {"rms_norm_eps": None},
    ],
    ids=str,
)
def test_an_unusual_config_is_left_to_transformers(config_values, change):
    assert LlamaConfig.try_from(config_values) is not None
    assert LlamaConfig.try_from({**config_values, **change}) is None


def test_a_missing_weight_is_named(llama_dir, config_values, tmp_path):
    weights = load_file(llama_dir / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config_values))
    with pytest.raises(ConfigError, match=r"model\.layers\.1\.mlp\.up_proj\.weight is missing"):
        load(tmp_path)


def test_a_weight_of_another_shape_is_named(llama_dir, config_values, tmp_path):
    weights = load_file(llama_dir / "model.safetensors")
    save_file({**weights, "model.norm.weight": torch.ones(3)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config_values))
    with pytest.raises(ConfigError, match="shape"):
        load(tmp_path)
