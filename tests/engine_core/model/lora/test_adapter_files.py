"""Which adapters are taken, and what they are."""

import json
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine_core.memory_plan import plan_model
from engine_core.model.lora.adapter_files import open_adapters
from engine_core.model.lora.adapter_weights import load_adapter
from ipc.config import CacheConfig, ModelConfig, SchedulerConfig
from ipc.errors import ConfigError
from tests.lora_adapters import make_adapter

QUERY = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"


def open_one(model_dir, folder, **settings):
    [files] = open_adapters(ModelConfig(model=str(model_dir), lora=(f"a={folder}",), **settings))
    return files


def edit(folder, change):
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"peft_type": "IA3"}, "peft_type"),
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"r": 0}, " r "),
        ({"r": True}, " r "),
        ({"lora_alpha": "16"}, "lora_alpha"),
        ({"use_rslora": 1}, "use_rslora"),
        ({"target_modules": [3]}, "target_modules"),
        ({"target_modules": ["q_proj", "lm_head"]}, "lm_head"),
        ({"rank_pattern": {"q_proj": 4}}, "q_proj"),
        ({"rank_pattern": {"(a+)+$": 4}}, "rank_pattern"),
        ({"alpha_pattern": [1]}, "alpha_pattern"),
    ],
)
def test_kinds_that_are_not_computed_here_are_refused_in_one_line(llama_dir, tmp_path, settings, named):
    folder = make_adapter(tmp_path / "a", llama_dir, **settings)
    with pytest.raises(ConfigError, match=r"^--lora a: ") as caught:
        open_one(llama_dir, folder)
    assert named in f"{caught.value.message} "
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors.update({"base_model.model.lm_head.lora_A.weight": torch.zeros(1)}),
        lambda tensors: tensors.update({QUERY.format("A").replace("layers.0", "layers.3"): torch.zeros(8, 64)}),
        lambda tensors: tensors.update({QUERY.format("A"): torch.zeros(8, 63)}),
        lambda tensors: tensors.update({QUERY.format("A"): torch.zeros(8, 64, dtype=torch.int8)}),
        lambda tensors: tensors.pop(QUERY.format("B")),
        lambda tensors: tensors.clear(),
    ],
    ids=["another matrix", "another layer", "another shape", "integers", "half a pair", "nothing"],
)
def test_tensors_that_are_not_for_the_model_are_refused(llama_dir, tmp_path, change):
    folder = make_adapter(tmp_path / "a", llama_dir, targets=("q_proj",))
    edit(folder, change)
    with pytest.raises(ConfigError, match=r"^--lora a: "):
        open_one(llama_dir, folder)


def test_a_truncated_file_is_refused(llama_dir, tmp_path):
    path = make_adapter(tmp_path / "a", llama_dir) / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ConfigError, match=r"^--lora a: malformed"):
        open_one(llama_dir, path.parent)
    path.write_bytes(struct.pack("<Q", 2**60))
    with pytest.raises(ConfigError, match=r"^--lora a: malformed"):
        open_one(llama_dir, path.parent)


def test_a_folder_without_the_files_is_refused(llama_dir, tmp_path):
    with pytest.raises(ConfigError, match=r"has no adapter_model\.safetensors"):
        open_one(llama_dir, tmp_path)


def test_a_model_that_runs_through_transformers_has_no_adapters(llama_dir, tmp_path):
    with pytest.raises(ConfigError, match="native"):
        open_one(llama_dir, make_adapter(tmp_path / "a", llama_dir), model_impl="transformers")


@pytest.mark.parametrize("targets", ["all-linear", r".*\.(q|v)_proj", None])
def test_where_targets_are_a_pattern_the_tensors_tell(llama_dir, tmp_path, targets):
    folder = make_adapter(tmp_path / "a", llama_dir, targets=("q_proj", "v_proj"), target_modules=targets)
    assert len(open_one(llama_dir, folder).modules) == 6


def test_modules_may_have_ranks_and_alphas_of_their_own(llama_dir, tmp_path):
    settings = {"alpha_pattern": {r"layers\.1.self_attn.q_proj": 24}, "rank_pattern": {"^model.layers.2": 3}}
    folder = make_adapter(tmp_path / "a", llama_dir, targets=("q_proj",), **settings)
    assert [module.scale for module in open_one(llama_dir, folder).modules] == [2.0, 3.0, 2.0]


def test_rslora_divides_by_the_root_of_the_rank(llama_dir, tmp_path):
    folder = make_adapter(tmp_path / "a", llama_dir, rank=4, use_rslora=True)
    assert {module.scale for module in open_one(llama_dir, folder).modules} == {8.0}


def test_parts_of_a_fused_matrix_are_added_in_their_rows(llama_dir, tmp_path):
    folder = make_adapter(tmp_path / "a", llama_dir, targets=("q_proj", "v_proj"), rank=3)
    adapter = load_adapter(open_one(llama_dir, folder), torch.float32, torch.device("cpu"))
    part, tensors = adapter.layers[0]["qkv"], load_file(folder / "adapter_model.safetensors")
    delta, names = part.expand @ part.shrink, (QUERY, QUERY.replace("q_proj", "v_proj"))
    query, value = (16 / 3 * tensors[name.format("B")] @ tensors[name.format("A")] for name in names)
    torch.testing.assert_close(delta, torch.cat([query, torch.zeros(32, 64), value]))


def test_the_fingerprint_follows_the_content(llama_dir, tmp_path):
    one, same, other = (
        open_one(llama_dir, make_adapter(tmp_path / name, llama_dir, seed=seed)).fingerprint()
        for name, seed in (("one", 1), ("same", 1), ("other", 2))
    )
    assert one == same != other


def test_the_plan_counts_what_is_kept_of_an_adapter(llama_dir, tmp_path):
    folder = make_adapter(tmp_path / "a", llama_dir, rank=6, targets=("q_proj", "v_proj"))
    plans = [
        plan_model(
            ModelConfig(model=str(llama_dir), dtype="float32", lora=lora), CacheConfig(), SchedulerConfig()
        ).memory
        for lora in ((), (f"a={folder}",))
    ]
    assert plans[1].weights_bytes - plans[0].weights_bytes == 3 * (32 * 64 + 12 * 128) * 4


def test_nothing_is_opened_where_there_are_no_adapters(tmp_path):
    assert open_adapters(ModelConfig(model=str(tmp_path))) == ()


def test_the_config_file_is_an_object(llama_dir, tmp_path):
    folder = make_adapter(tmp_path / "a", llama_dir)
    (folder / "adapter_config.json").write_text(json.dumps([]))
    with pytest.raises(ConfigError, match="no JSON object"):
        open_one(llama_dir, folder)


@pytest.mark.parametrize(("value", "alpha"), [(float("nan"), 16), (float("inf"), 16), (3e38, 1600)])
def test_values_that_are_not_finite_are_refused(llama_dir, tmp_path, value, alpha):
    """Else the kernels would fail their check, and everybody were served by plain torch."""
    folder = make_adapter(tmp_path / "a", llama_dir, lora_alpha=alpha)
    edit(folder, lambda tensors: tensors[QUERY.format("B")].view(-1)[5].fill_(value))
    files = open_one(llama_dir, folder)
    with pytest.raises(ConfigError, match=r"^--lora a: qkv of layer 0 has values that are not finite"):
        load_adapter(files, torch.float32, torch.device("cpu"))
