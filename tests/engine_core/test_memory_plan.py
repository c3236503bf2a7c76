"""The memory plan: what it takes by default, what it shrinks, and what it refuses with which advice."""

import dataclasses
import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine_core.memory_plan import ModelShape, format_bytes, plan_memory, plan_model, read_model_shape
from ipc.config import CacheConfig, ModelConfig, SchedulerConfig
from ipc.errors import ConfigError
from tests.safetensors_files import write_safetensors

SHAPE = ModelShape(
    num_layers=30,
    num_heads=9,
    num_kv_heads=3,
    head_dim=64,
    hidden_size=576,
    intermediate_size=1536,
    vocab_size=49152,
    max_model_len=8192,
    num_parameters=134_515_008,
)
GIB = 2**30


def plan(available=16 * GIB, max_model_len=None, max_num_seqs=64, on_cuda=False, shape=SHAPE, **cache):
    return plan_memory(
        shape,
        dtype_bytes=4,
        max_model_len=max_model_len,
        cache=CacheConfig(**cache),
        scheduler=SchedulerConfig(max_num_seqs=max_num_seqs),
        available_bytes=available,
        on_cuda=on_cuda,
    )


def test_default_holds_a_thousand_tokens_per_sequence():
    result = plan(max_num_seqs=64)
    assert (result.num_blocks * 32, result.max_model_len, result.notes) == (65_536, 8192, ())
    assert result.kv_bytes_per_token == 2 * 30 * 3 * 64 * 4
    assert result.max_concurrency == 8.0


def test_draft_tokens_have_logits_too():
    def workspace_bytes(**settings):
        scheduler = SchedulerConfig(max_num_seqs=8, speculative_tokens=9, speculative_max_batch=4, **settings)
        arguments = {"dtype_bytes": 4, "max_model_len": None, "available_bytes": 16 * GIB, "cache": CacheConfig()}
        return plan_memory(SHAPE, scheduler=scheduler, **arguments).workspace_bytes

    assert workspace_bytes(speculative="ngram") - workspace_bytes() == (4 * 10 - 8) * 49152 * 4 * 3


def test_default_holds_at_least_four_full_requests():
    assert plan(max_num_seqs=8).num_blocks * 32 == 4 * 8192


def test_on_cuda_the_cache_takes_most_of_what_is_left():
    result = plan(on_cuda=True)
    left = result.available_bytes - result.weights_bytes - result.workspace_bytes
    assert 0.89 * left < result.kv_cache_bytes <= 0.9 * left


@given(
    available=st.one_of(st.integers(1, 4 * GIB), st.integers(600 * 2**20, 800 * 2**20)),
    max_model_len=st.one_of(st.none(), st.integers(1, 8192)),
    cache=st.sampled_from([{}, {"num_blocks": 2}, {"num_blocks": 50}, {"kv_cache_memory_bytes": 10**8}]),
    block_size=st.sampled_from([16, 32, 256, 2048]),
    on_cuda=st.booleans(),
)
def test_a_plan_fits_or_is_refused(available, max_model_len, cache, block_size, on_cuda):
    try:
        result = plan(available, max_model_len, on_cuda=on_cuda, block_size=block_size, **cache)
    except ConfigError:
        return
    assert result.needed_bytes <= available
    assert result.num_blocks >= 2
    assert result.max_model_len <= result.num_blocks * block_size
    if max_model_len is None and not cache and not on_cuda:
        left = available - result.weights_bytes - result.workspace_bytes
        assert result.kv_cache_bytes <= left / 2 or result.num_blocks == 2


def test_two_blocks_are_checked_for_the_shortest_request_too():
    weights_and_step = plan().weights_bytes + plan().workspace_bytes
    block_bytes = 256 * SHAPE.kv_bytes_per_token(4)
    with pytest.raises(ConfigError, match="two blocks"):
        plan(weights_and_step + int(1.5 * block_bytes), max_model_len=100, block_size=256)
    assert plan(weights_and_step + 2 * block_bytes, max_model_len=100, block_size=256).num_blocks == 2


def test_little_memory_shrinks_max_model_len_with_a_note():
    result = plan(available=int(0.8 * GIB))
    assert result.max_model_len == result.num_blocks * 32 < 8192
    assert "instead of 8192" in result.notes[0]


def test_num_blocks_limits_max_model_len():
    result = plan(num_blocks=10)
    assert (result.num_blocks, result.max_model_len) == (10, 320)


def test_cache_memory_is_divided_into_blocks():
    assert plan(kv_cache_memory_bytes=100 * 32 * 46080 + 5).num_blocks == 100


@pytest.mark.parametrize(
    ("settings", "advice"),
    [
        ({"available": 500 * 2**20}, "use --dtype bfloat16, a smaller model"),
        ({"available": 300 * 2**20}, "use a smaller model"),
        ({"available": GIB, "num_blocks": 5000}, r"--num-blocks \d+ or less"),
        ({"available": GIB, "kv_cache_memory_bytes": 8 * GIB}, r"--num-blocks \d+ or less"),
        ({"kv_cache_memory_bytes": 1000}, "two blocks"),
        ({"available": int(0.8 * GIB), "max_model_len": 8192}, r"--max-model-len \d+ or less"),
        ({"max_model_len": 9000}, "at most 8192"),
        ({"shape": dataclasses.replace(SHAPE, max_model_len=0)}, "give --max-model-len"),
        ({"available": 650 * 2**20, "block_size": 4096}, r"two blocks.*--block-size \d+ or less"),
    ],
)
def test_an_impossible_plan_names_a_flag(settings, advice):
    with pytest.raises(ConfigError, match=advice):
        plan(**settings)


@pytest.mark.parametrize("available", [int(0.8 * GIB), GIB])
def test_the_advised_number_of_blocks_works(available):
    with pytest.raises(ConfigError) as caught:
        plan(available=available, num_blocks=100_000)
    advised = int(str(caught.value).split("--num-blocks ")[1].split()[0])
    assert plan(available=available, num_blocks=advised).num_blocks == advised


@given(
    available=st.integers(200 * 2**20, 700 * 2**20),
    dtype_bytes=st.sampled_from([2, 4]),
    max_num_batched_tokens=st.sampled_from([64, 2048, 16_384]),
)
def test_advice_for_too_little_memory_works(available, dtype_bytes, max_num_batched_tokens):
    def plan_with(dtype_bytes, max_num_batched_tokens):
        scheduler = SchedulerConfig(max_num_seqs=16, max_num_batched_tokens=max_num_batched_tokens)
        sizes = {"max_model_len": None, "cache": CacheConfig(), "available_bytes": available}
        return plan_memory(SHAPE, dtype_bytes=dtype_bytes, scheduler=scheduler, **sizes)

    try:
        plan_with(dtype_bytes, max_num_batched_tokens)
    except ConfigError as error:
        message = error.message
    else:
        return
    assert ("--dtype bfloat16" in message) == (dtype_bytes == 4 and fits(plan_with, 2, max_num_batched_tokens))
    if "--max-num-batched-tokens" in message:
        advised = int(message.split("--max-num-batched-tokens ")[1].split()[0])
        assert 16 <= advised < max_num_batched_tokens
        assert fits(plan_with, dtype_bytes, advised)
        assert not fits(plan_with, dtype_bytes, advised + 1)
    elif "--dtype" not in message:
        assert "a smaller model" in message
        assert not fits(plan_with, dtype_bytes, 16)


def fits(plan_with, *arguments):
    try:
        plan_with(*arguments)
    except ConfigError:
        return False
    return True


def test_an_explicit_length_may_go_beyond_half_of_the_memory():
    shrunk = plan(available=int(0.85 * GIB))
    asked = shrunk.max_model_len + 320
    assert plan(available=int(0.85 * GIB), max_model_len=asked).max_model_len == asked


def write_model(folder, config, shapes):
    (folder / "config.json").write_text(json.dumps(config))
    write_safetensors(folder / "model.safetensors", **shapes)


CONFIG = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2, "vocab_size": 50}


def test_missing_head_dim_and_kv_heads_follow_from_the_others(tmp_path):
    write_model(tmp_path, CONFIG, {"a": ("BF16", [50, 64]), "b": ("F32", [3]), "c": ("I64", [100])})
    shape = read_model_shape(tmp_path)
    assert (shape.head_dim, shape.num_kv_heads, shape.max_model_len) == (16, 4, 0)
    assert shape.num_parameters == 50 * 64 + 3


def test_a_nested_text_config_is_read(tmp_path):
    text = CONFIG | {"head_dim": 32, "num_key_value_heads": 1, "max_position_embeddings": 99}
    write_model(tmp_path, {"model_type": "x", "text_config": text}, {"a": ("F16", [2])})
    shape = read_model_shape(tmp_path)
    assert (shape.head_dim, shape.num_kv_heads, shape.max_model_len) == (32, 1, 99)


def test_only_the_files_of_the_index_count(tmp_path):
    write_model(tmp_path, CONFIG, {"a": ("BF16", [7])})
    (tmp_path / "model.safetensors").rename(tmp_path / "part.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "part.safetensors"}}))
    (tmp_path / "other.safetensors").write_bytes(b"not read")
    assert read_model_shape(tmp_path).num_parameters == 7


@pytest.mark.parametrize("content", [b"", b"\xff" * 20, struct.pack("<Q", 3) + b"[1]", struct.pack("<Q", 50) + b"{}"])
def test_malformed_weights_are_a_config_error(tmp_path, content):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ConfigError, match="malformed"):
        read_model_shape(tmp_path)


def test_no_weights_or_no_sizes_are_a_config_error(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(ConfigError, match="safetensors"):
        read_model_shape(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="hidden_size"):
        read_model_shape(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_key_value_heads": "2"}, r'num_key_value_heads must be an integer from 1 to 2147483647, not "2"'),
        ({"num_key_value_heads": -2}, "num_key_value_heads must be"),
        ({"num_attention_heads": 0}, "num_attention_heads must be"),
        ({"num_hidden_layers": True}, "num_hidden_layers must be"),
        ({"hidden_size": 64.0}, "hidden_size must be"),
        ({"hidden_size": 3}, "hidden_size 3 is too small for 4 heads"),
        ({"head_dim": [16]}, "head_dim must be"),
        ({"intermediate_size": {}}, "intermediate_size must be"),
        ({"vocab_size": 10**400}, "vocab_size must be an integer from 1 to 2147483647, not a huge integer"),
        ({"max_position_embeddings": "long"}, "max_position_embeddings must be"),
        ({"text_config": "none"}, "text_config is no JSON object"),
    ],
)
def test_a_size_of_the_wrong_kind_is_named_in_one_line(tmp_path, changes, message):
    write_model(tmp_path, CONFIG | changes, {"a": ("F16", [2])})
    with pytest.raises(ConfigError, match=message) as caught:
        read_model_shape(tmp_path)
    assert "\n" not in caught.value.message


def test_null_is_as_good_as_nothing(tmp_path):
    nothing = dict.fromkeys(["num_key_value_heads", "head_dim", "intermediate_size", "max_position_embeddings"])
    write_model(tmp_path, CONFIG | nothing | {"text_config": None, "n_positions": 7}, {"a": ("F16", [2])})
    shape = read_model_shape(tmp_path)
    assert (shape.num_kv_heads, shape.head_dim, shape.intermediate_size, shape.max_model_len) == (4, 16, 256, 7)


def test_a_config_that_is_no_object_is_a_config_error(tmp_path):
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ConfigError, match="no JSON object"):
        read_model_shape(tmp_path)


def test_format_bytes():
    assert [format_bytes(n) for n in (5, 2048, 3 * 2**20, 1.5 * GIB)] == ["5 bytes", "2.0 KiB", "3.0 MiB", "1.5 GiB"]


def test_a_model_is_planned_from_its_folder(tmp_path):
    config = CONFIG | {"model_type": "gpt_neox", "max_position_embeddings": 128}
    write_model(tmp_path, config, {"a": ("BF16", [1000])})
    model = ModelConfig(model=str(tmp_path), device="cpu", dtype="float32")
    result = plan_model(model, CacheConfig(num_blocks=3), SchedulerConfig())
    assert (result.device, result.dtype, result.shape.num_parameters) == ("cpu", "float32", 1000)
    assert (result.memory.weights_bytes, result.memory.num_blocks, result.memory.max_model_len) == (4000, 3, 96)
    assert result.memory.kv_bytes_per_token == 2 * 2 * 64 * 4
    assert result.memory.needed_bytes == 4000 + result.memory.workspace_bytes + 3 * 32 * 1024


BERT = {
    "model_type": "bert",
    "hidden_size": 64,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "vocab_size": 50,
    "type_vocab_size": 2,
    "max_position_embeddings": 512,
    "hidden_act": "gelu",
}


def plan_bert(folder, num_blocks=None, max_num_batched_tokens=2048, **settings):
    write_model(folder, BERT, {"a": ("F32", [1000])})
    scheduler = SchedulerConfig(max_num_batched_tokens=max_num_batched_tokens)
    model = ModelConfig(model=str(folder), device="cpu", **settings)
    return plan_model(model, CacheConfig(num_blocks=num_blocks), scheduler)


def test_a_sentence_encoder_is_planned_in_fp32_without_a_kv_cache(tmp_path):
    result = plan_bert(tmp_path)
    assert (result.dtype, result.memory.num_blocks, result.memory.kv_cache_bytes) == ("float32", 0, 0)
    assert (result.memory.max_model_len, result.memory.max_concurrency, result.memory.notes) == (512, 0.0, ())
    assert result.memory.needed_bytes == 4000 + result.memory.workspace_bytes
    assert "no KV cache" in result.memory.describe()
    assert plan_bert(tmp_path, dtype="bfloat16").memory.weights_bytes == 2000


def test_the_size_of_a_cache_that_is_not_there_is_noted(tmp_path):
    assert "no KV cache" in plan_bert(tmp_path, num_blocks=5).memory.notes[0]


@pytest.mark.parametrize(("asked", "found"), [(None, 300), (400, 400)])
def test_the_longest_text_is_that_of_the_model_unless_the_user_says_otherwise(tmp_path, asked, found):
    (tmp_path / "modules.json").write_text('[{"path": "", "type": "sentence_transformers.models.Transformer"}]')
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 300}')
    assert plan_bert(tmp_path, max_model_len=asked).memory.max_model_len == found


def test_a_text_of_an_encoder_must_fit_into_a_step(tmp_path):
    with pytest.raises(ConfigError, match="--max-num-batched-tokens 512 or more, or --max-model-len 128 or less"):
        plan_bert(tmp_path, max_num_batched_tokens=128)
    assert plan_bert(tmp_path, max_num_batched_tokens=128, max_model_len=128).memory.max_model_len == 128


def test_the_sizes_of_gpt2_have_names_of_their_own(tmp_path):
    config = {"n_embd": 64, "n_head": 4, "n_layer": 3, "n_positions": 128, "n_inner": 96, "vocab_size": 50}
    write_model(tmp_path, config, {"a": ("F32", [50])})
    shape = read_model_shape(tmp_path)
    assert (shape.hidden_size, shape.num_heads, shape.num_kv_heads, shape.head_dim) == (64, 4, 4, 16)
    assert (shape.num_layers, shape.intermediate_size, shape.max_model_len) == (3, 96, 128)
    write_model(tmp_path, config | {"multi_query": True}, {"a": ("F32", [50])})
    assert read_model_shape(tmp_path).num_kv_heads == 1


def test_a_model_that_cannot_be_run_is_not_planned(tmp_path):
    write_model(tmp_path, CONFIG | {"model_type": "t5", "is_encoder_decoder": True}, {"a": ("F32", [50])})
    with pytest.raises(ConfigError, match="t5 models cannot be run here: an encoder-decoder"):
        plan_model(ModelConfig(model=str(tmp_path), device="cpu"), CacheConfig(), SchedulerConfig())


def test_a_folder_without_a_model_cannot_be_planned(tmp_path):
    with pytest.raises(ConfigError, match=r"config\.json is missing"):
        plan_model(ModelConfig(model=str(tmp_path)), CacheConfig(), SchedulerConfig())
