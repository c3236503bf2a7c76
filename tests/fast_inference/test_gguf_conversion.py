"""A GGUF file becomes a model folder: weights, config, tokenizer and chat template are those of the file."""

import json

import pytest
import torch
from gguf import GGMLQuantizationType as TensorType
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from engine_core.model.loader import load_model_runner
from fast_inference.gguf_conversion import convert_gguf
from ipc.config import CacheConfig, ModelConfig, SchedulerConfig
from tests import gguf_files
from tests.factories import CoreHarness

TYPES = ("Q4_0", "Q4_1", "Q4_K", "Q6_K", "Q8_0", "F16", "BF16", "F32")
NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
OTHER_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
HEADS = {"attn_q": gguf_files.HEADS, "attn_k": gguf_files.KV_HEADS}


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """For a name of a type: the folder, and the weights in fp32 as gguf dequantizes them, rounded to bf16."""
    made = {}

    def convert(name):
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            values = gguf_files.write_gguf(folder / "model.gguf", TensorType[name])
            convert_gguf(folder / "model.gguf", folder / "converted")
            made[name] = folder / "converted", dict(as_in_transformers(*item) for item in values.items())
        return made[name]

    return convert


def as_in_transformers(name, values):
    """Name and value of a tensor: the two numbers that rotary turns are neighbours in GGUF, half a head apart here."""
    if name in OTHER_NAMES:
        return OTHER_NAMES[name], torch.from_numpy(values).bfloat16().float()
    _, layer, kind, _ = name.split(".")
    if kind in HEADS:
        values = values.reshape(HEADS[kind], -1, 2, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
    return f"model.layers.{layer}.{NAMES[kind]}.weight", torch.from_numpy(values).bfloat16().float()


@pytest.mark.parametrize("name", TYPES)
def test_weights_are_those_that_gguf_dequantizes(converted, name):
    folder, expected = converted(name)
    actual = load_file(folder / "model.safetensors")
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[key].float(), expected[key]) for key in expected)


@pytest.mark.parametrize("name", TYPES)
@torch.inference_mode()
def test_tokens_are_those_of_transformers_with_the_same_weights(converted, name):
    folder, weights = converted(name)
    config = ModelConfig(model=str(folder), device="cpu", dtype="float32", threads=1)
    runner = load_model_runner(config, CacheConfig(num_blocks=8), SchedulerConfig(), lambda stage: None)
    harness = CoreHarness(runner, block_size=32)
    prompt = Tokenizer.from_file(str(folder / "tokenizer.json")).encode("the cat in the hat").ids
    request_id = harness.add(prompt, max_tokens=20)
    harness.run()
    answer = harness.token_ids[request_id]
    model = reference_model()
    model.load_state_dict(weights)
    logits = model(torch.tensor([prompt + answer[:-1]])).logits[0, len(prompt) - 1 :]
    assert answer == logits.argmax(dim=-1).tolist()


def reference_model():
    sizes = {"hidden_size": gguf_files.HIDDEN, "intermediate_size": gguf_files.FEED_FORWARD}
    heads = {"num_attention_heads": gguf_files.HEADS, "num_key_value_heads": gguf_files.KV_HEADS}
    return LlamaForCausalLM(
        LlamaConfig(
            **(sizes | heads),
            num_hidden_layers=gguf_files.LAYERS,
            vocab_size=len(gguf_files.TOKENS),
            rms_norm_eps=1e-5,
            tie_word_embeddings=False,
        )
    ).eval()


def test_tokenizer_and_chat_template_are_those_of_the_file(converted):
    folder, _ = converted("F32")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    text = "the Hütte in\n\x00a\t🐈</s><|user|>"
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert [gguf_files.TOKENS[token_id] for token_id in ids[-2:]] == ["</s>", "<|user|>"]
    assert ids[0] == gguf_files.TOKENS.index("the")
    assert tokenizer.encode(text).ids == [gguf_files.TOKENS.index("<s>"), *ids], "the file says add_bos_token"
    assert (folder / "chat_template.jinja").read_text() == gguf_files.CHAT_TEMPLATE


def test_the_config_is_that_of_the_file(converted):
    folder, _ = converted("F32")
    config = json.loads((folder / "config.json").read_text())
    assert (config["max_position_embeddings"], config["num_key_value_heads"]) == (256, 2)
    assert (config["bos_token_id"], config["eos_token_id"]) == (261, 262)
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == 262
