"""MinimalLLM checkpoints of every generation: converted, they compute what the description of the family says."""

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers

from engine_core.model.kernels.bindings import Format
from engine_core.model.loader import load_model_runner
from fast_inference.minimal_llm_conversion import convert_minimal_llm
from fast_inference.model_store import find_model, pull, resolve_model
from ipc.config import CacheConfig, ModelConfig, SchedulerConfig
from ipc.errors import ConfigError
from tests.engine_core.model.decoder.test_network import TOKEN_IDS, difference, logits_of, make_network
from tests.factories import CoreHarness
from tests.minimal_llm import VARIANTS, config_of, random_state, reference_logits, save_checkpoint


def write_tokenizer(path, num_tokens=199):
    """A word for each id."""
    vocabulary = {"<unk>": 0, **{f"t{index}": index for index in range(1, num_tokens)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(path))


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """For a generation: the folder that its checkpoint becomes, and the logits that the description gives."""

    @cache
    def made(variant):
        folder = tmp_path_factory.mktemp(variant)
        state = save_checkpoint(folder / "model.pt", variant)
        write_tokenizer(folder / "tokenizer.json")
        convert_minimal_llm(folder / "model.pt", folder / "converted", VARIANTS[variant])
        return folder / "converted", reference_logits(variant, config_of(variant), state, torch.from_numpy(TOKEN_IDS))

    return made


@pytest.mark.parametrize("kind", ["torch", "kernels"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_all_logits_equal_those_of_the_description(converted, variant, kind):
    folder, expected = converted(variant)
    config, network = make_network(folder, kind)
    actual = logits_of(config, network, [70, 79, 1])
    assert difference(actual, expected) < 1e-5
    assert (actual - expected).abs().max() < 1e-4


def test_the_ways_to_tell_positions_differ(converted):
    """So that no test passes because positions do not matter."""
    all_logits = [converted(variant)[1] for variant in VARIANTS]
    differences = [difference(a, b) for index, a in enumerate(all_logits) for b in all_logits[:index]]
    assert min(differences) > 0.1


@pytest.mark.parametrize("format", ["INT8", "DYNAMIC_INT8", "INT4"])
def test_quantized_weights_stay_near(converted, format):
    folder, expected = converted("C")
    config, network = make_network(folder, "kernels", torch.bfloat16, Format[format])
    error = logits_of(config, network, [150], torch.bfloat16) - expected
    assert error.norm() < (0.35 if format == "INT4" else 0.2) * expected.norm()


def test_bfloat16_stays_near(converted):
    folder, expected = converted("B")
    for kind in ("torch", "kernels"):
        config, network = make_network(folder, kind, torch.bfloat16)
        assert difference(logits_of(config, network, [150], torch.bfloat16), expected) < 0.1


def greedy(variant, prompt, count):
    """Prompt and continuation by the description."""
    config = config_of(variant)
    state, tokens = random_state(variant, config), list(prompt)
    for _ in range(count):
        tokens.append(int(reference_logits(variant, config, state, torch.tensor(tokens))[-1].argmax()))
    return tokens[len(prompt) :]


@pytest.mark.parametrize("variant", VARIANTS)
def test_in_chunks_in_a_batch_and_from_the_prefix_cache_the_engine_says_the_same(converted, variant):
    model = ModelConfig(model=str(converted(variant)[0]), dtype="float32", device="cpu", threads=1, model_impl="native")
    limits = {"max_num_seqs": 8, "max_num_batched_tokens": 32, "max_prefill_chunk": 16}
    cache = CacheConfig(block_size=16, num_blocks=64)
    runner = load_model_runner(model, cache, SchedulerConfig(**limits), lambda stage: None)
    harness = CoreHarness(runner, block_size=16, **limits)
    prompts = [TOKEN_IDS[3 * number : 3 * number + length].tolist() for number, length in enumerate((5, 33, 64, 90))]
    expected = [greedy(variant, prompt, 12) for prompt in prompts]
    for is_warm in (False, True):
        ids = [harness.add(prompt, max_tokens=12) for prompt in prompts]
        harness.run()
        assert [harness.token_ids[i] for i in ids] == expected
        assert (harness.finished[ids[3]].num_cached_tokens >= 64) == is_warm


BLOCK_1 = "transformer_blocks.1.attention."
QKV = [f"transformer_blocks.{index}.attention.qkv.weight" for index in range(3)]


# --- what is kept, and what is refused -------------------------------------------------------------------------------


def change_checkpoint(path, variant, state=None, **fields):
    """A checkpoint with other fields in its config; tensors that are None are dropped."""
    config = config_of(variant)
    changed = random_state(variant, config) | (state or {})
    for name, value in fields.items():
        setattr(config, name, value)
    kept = {name: tensor for name, tensor in changed.items() if tensor is not None}
    torch.save({"config": config, "model_state_dict": kept}, path)


def convert(tmp_path, rope=None):
    convert_minimal_llm(tmp_path / "x.pt", tmp_path / "out", rope)
    return json.loads((tmp_path / "out" / "config.json").read_text()), load_file(tmp_path / "out" / "model.safetensors")


def test_numbers_keep_their_precision_and_a_head_of_its_own_is_kept(tmp_path):
    head = torch.ones(199, 64, dtype=torch.float16)
    change_checkpoint(tmp_path / "x.pt", "A", {"lm_head.weight": head})
    config, tensors = convert(tmp_path)
    assert not config["tie_word_embeddings"]
    assert torch.equal(tensors["lm_head.weight"], head)
    assert tensors["model.embed_tokens.weight"].dtype == torch.float32


def test_a_tied_head_is_not_kept_twice_and_the_vocabulary_may_come_from_the_embedding(tmp_path):
    change_checkpoint(tmp_path / "x.pt", "C", {"lm_head.weight": None}, vocab_size=None)
    config, tensors = convert(tmp_path)
    assert (config["tie_word_embeddings"], config["vocab_size"]) == (True, 199)
    assert "lm_head.weight" not in tensors


@pytest.mark.parametrize(
    ("variant", "state", "fields", "message"),
    [
        ("A", {f"{BLOCK_1}bias": torch.ones(3)}, {}, r"generation A or B .* unknown .*1\.attention\.bias"),
        ("C", {f"{BLOCK_1}qk.weight": torch.ones(3)}, {}, r"generation C .* unknown .*\.qk\.weight"),
        ("A", {"transformer_blocks.2.norm2.weight": None}, {}, r"lacks transformer_blocks\.2\.norm2\.weight"),
        ("A", {"norm.weight": torch.ones(3)}, {}, r"norm\.weight has the shape \[3\] instead of \[64\]"),
        ("A", {"norm.weight": torch.ones(64, dtype=torch.int64)}, {}, r"norm\.weight has the type int64"),
        ("A", {"norm.weight": "text"}, {}, r"norm\.weight is no tensor"),
        ("A", {"a\nb\x1b": torch.ones(1)}, {}, r"unknown 'a\\nb\\x1b'"),
        ("A", {}, {"n_layers": 2}, r"unknown transformer_blocks\.2\."),
        ("A", {}, {"d_model": "64"}, r"d_model must be an integer"),
        ("A", {}, {"n_heads": 3}, r"n_heads \(3\) must divide d_model \(64\)"),
        ("A", {}, {"n_heads": 32}, r"heads of 2 dimensions"),
        ("A", {}, {"n_kv_heads": 2}, r"as many key-value heads as heads, not 2"),
        ("A", dict.fromkeys(QKV), {}, r"no MinimalLLM: .*lm_head"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(tmp_path, variant, state, fields, message):
    change_checkpoint(tmp_path / "x.pt", variant, state, **fields)
    with pytest.raises(ConfigError, match=message) as caught:
        convert(tmp_path)
    assert "\n" not in caught.value.message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", [torch.ones(3), {"model": {}}, {}, {"config": 1, "model_state_dict": {}}])
def test_another_checkpoint_is_refused(tmp_path, value):
    torch.save(value, tmp_path / "x.pt")
    with pytest.raises(ConfigError, match="no MinimalLLM checkpoint"):
        convert(tmp_path)


@pytest.mark.parametrize("rope", ["heads", "tokens"])
def test_separate_projections_are_always_interleaved(tmp_path, rope):
    save_checkpoint(tmp_path / "x.pt", "C")
    with pytest.raises(ConfigError, match=f"--rope {rope}"):
        convert(tmp_path, rope)


# --- the tokenizer ---------------------------------------------------------------------------------------------------


def load_with_tokenizer(folder, **settings):
    model = ModelConfig(model=str(folder), dtype="float32", device="cpu", threads=1, **settings)
    return load_model_runner(model, CacheConfig(num_blocks=8), SchedulerConfig(), lambda stage: None)


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(converted, tmp_path):
    write_tokenizer(tmp_path / "tokenizer.json", num_tokens=200)
    with pytest.raises(ConfigError, match="has 200 tokens and the model 199"):
        load_with_tokenizer(converted("A")[0], tokenizer=str(tmp_path))


def test_the_tokenizer_says_what_ends_a_text(converted, tmp_path):
    write_tokenizer(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "t5"}))
    assert load_with_tokenizer(converted("A")[0], tokenizer=str(tmp_path)).info.eos_token_ids == (5,)


def test_without_a_tokenizer_one_line_says_how_to_name_one(tmp_path):
    save_checkpoint(tmp_path / "x.pt", "A")
    convert(tmp_path)
    with pytest.raises(ConfigError, match=r"no tokenizer in .*--tokenizer .*beside a \.pt file"):
        load_with_tokenizer(tmp_path / "out")


# --- in the model cache ----------------------------------------------------------------------------------------------


def silent(stage, fraction):
    pass


@pytest.fixture
def cache_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "fast-inference" / "models"


def test_a_checkpoint_is_converted_once_for_each_rope_and_each_tokenizer_beside_it(cache_dir, tmp_path):
    path = str(tmp_path / "final_model1.pt")
    save_checkpoint(path, "A")
    with pytest.raises(ConfigError, match="begins by converting final_model1"):
        find_model(path)
    folder = resolve_model(path, silent)
    assert find_model(path) == folder
    assert Path(folder).parent == cache_dir
    with pytest.raises(ConfigError, match=r"pull .* --rope tokens` begins by converting final_model1"):
        find_model(path, rope="tokens")
    write_tokenizer(tmp_path / "tokenizer.json")
    with pytest.raises(ConfigError, match="begins by converting final_model1"):
        find_model(path)


def test_what_is_pulled_is_what_is_found(cache_dir, tmp_path):
    path = str(tmp_path / "x.pt")
    save_checkpoint(path, "A")
    folder = pull(path, silent, rope="tokens")
    assert find_model(path, rope="tokens") == str(folder)


def test_the_tokenizer_beside_a_link_is_taken(cache_dir, tmp_path):
    save_checkpoint(tmp_path / "step_100.pt", "A")
    link = tmp_path / "served" / "latest.pt"
    link.parent.mkdir()
    link.symlink_to(tmp_path / "step_100.pt")
    write_tokenizer(link.parent / "tokenizer.json")
    assert (Path(resolve_model(str(link), silent)) / "tokenizer.json").is_file()


def test_rope_is_for_checkpoints_only(cache_dir, tmp_path, converted):
    for model in ("fake", str(converted("A")[0])):
        with pytest.raises(ConfigError, match="--rope heads is for MinimalLLM checkpoints"):
            resolve_model(model, silent, rope="heads")


def test_a_checkpoint_that_is_not_there_is_not_looked_for_on_the_hub(cache_dir):
    with pytest.raises(ConfigError, match=r"no model 'models/final_model1\.pt': no such file"):
        resolve_model("models/final_model1.pt", silent)
