"""Loading: what is refused in one line, and what the model itself answers."""

import json
import shutil

import pytest
import torch
from transformers import CohereConfig, CohereForCausalLM, GraniteConfig, GraniteForCausalLM, LlamaConfig

from engine_core.model.loader import load_model_runner
from engine_core.outputs import NewRequestData, RequestKey, ScheduledRequest, SchedulerOutput
from fast_inference.model_store import resolve_model
from ipc.config import CacheConfig, ModelConfig, SchedulerConfig
from ipc.errors import ConfigError
from ipc.messages import Task
from ipc.sampling_params import SamplingParams
from tests.sentence_encoders import save_modules


@pytest.fixture
def editable(llama_dir, tmp_path):
    """A copy of the tiny model, and a function that changes its config."""
    folder = shutil.copytree(llama_dir, tmp_path / "model")

    def edit(**values):
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))
        return folder

    return edit


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "martian"}, "martian"),
        ({"model_type": "t5"}, "lacks|encoder|t5"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantization_config"),
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        ({"layer_types": ["linear_attention"] * 3}, "linear_attention"),
        ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "dynamic"),
        ({"num_hidden_layers": 4}, r"model\.layers\.3\..* are missing"),
        ({"rms_norm_eps": None}, "rms_norm_eps"),
        ({"hidden_act": "martian"}, "martian"),
        ({"quantization_config": []}, "quantization_config"),
        ({"rope_parameters": "linear"}, "rope_parameters"),
        ({"num_key_value_heads": "2"}, "num_key_value_heads must be an integer"),
        ({"num_key_value_heads": 3}, "cannot (load|run)"),
        ({"text_config": 3}, "text_config is no JSON object"),
        ({"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}, "own|code"),
    ],
)
def test_a_model_that_cannot_be_run_is_refused_in_one_line(editable, load_tiny, changes, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_tiny(editable(**changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("network_class", "config_class", "extra"),
    [
        (CohereForCausalLM, CohereConfig, {"logit_scale": 0.5}),
        (GraniteForCausalLM, GraniteConfig, {"logits_scaling": 8.0}),
    ],
)
def test_architectures_with_other_maths_are_refused(tmp_path, load_tiny, network_class, config_class, extra):
    sizes = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64}
    network_class(config_class(**sizes, **heads, **extra)).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"logit_scale|logits_scaling"):
        load_tiny(tmp_path)


def test_longrope_beyond_its_original_length_names_the_flag(editable, load_tiny):
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "factor": 2.0, "original_max_position_embeddings": 128}
    factors = {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
    with pytest.raises(ConfigError, match="--max-model-len 128"):
        load_tiny(editable(rope_parameters=rope | factors))


def test_a_folder_without_config_is_refused(tmp_path, load_tiny):
    with pytest.raises(ConfigError, match=r"config\.json is missing"):
        load_tiny(tmp_path)


def test_damaged_weights_are_refused(editable, load_tiny):
    folder = editable()
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ConfigError, match=r"malformed .*bytes of data instead of"):
        load_tiny(folder)


def test_a_decoder_pools_as_its_sentence_files_say(editable, load_tiny):
    folder = editable()
    save_modules(folder, pooling="lasttoken", is_normalized=False)
    assert load_tiny(folder).info.pooling == "last"
    assert load_tiny(folder, pooling="mean").info.pooling == "mean"


def test_eos_ids_of_the_generation_config_win(editable, load_tiny):
    folder = editable(eos_token_id=2)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [5, 6]}))
    assert load_tiny(folder).info.eos_token_ids == (5, 6)


@pytest.mark.parametrize("ids", ["2", [2, None], True, {}])
def test_eos_ids_that_are_no_ids_are_refused(editable, load_tiny, ids):
    folder = editable()
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}))
    with pytest.raises(ConfigError, match="eos_token_id must be a token id or a list of them"):
        load_tiny(folder)


def test_fingerprint_depends_on_dtype_and_weights(editable, load_tiny, llama_runner):
    folder = editable()
    first = load_tiny(folder).info.fingerprint
    assert load_tiny(folder).info.fingerprint == first
    assert load_tiny(folder, dtype="bfloat16").info.fingerprint != first
    (folder / "model.safetensors").touch()
    assert load_tiny(folder).info.fingerprint != first


def test_cuda_without_a_device_is_refused(llama_dir):
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(ConfigError, match="--device cpu"):
        load_model_runner(ModelConfig(model=str(llama_dir), device="cuda"), CacheConfig(), SchedulerConfig(), print)


def test_the_cache_is_zero_after_loading(load_tiny, llama_dir):
    cache = load_tiny(llama_dir)._kv_tensors
    assert not any(bool(tensor.any()) for tensor in (*cache.keys, *cache.values))


def test_stages_are_reported(llama_dir):
    stages = []
    model = ModelConfig(model=str(llama_dir), dtype="float32", device="cpu", threads=1)
    load_model_runner(model, CacheConfig(num_blocks=4), SchedulerConfig(), stages.append)
    assert [stage.split()[0] for stage in stages] == ["preparing", "loading", "checking"]


def test_llama_config_of_the_fixture_has_grouped_heads(llama_dir):
    """The other tests rely on it: without, no test would see a wrong order of query heads."""
    config = LlamaConfig.from_pretrained(llama_dir)
    assert config.num_attention_heads == 2 * config.num_key_value_heads


@pytest.mark.model
@pytest.mark.timeout(400)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_smollm2_knows_the_capital_of_france(dtype):
    from tokenizers import Tokenizer

    folder = resolve_model("smollm2-135m-instruct", lambda stage, fraction: None)
    model = ModelConfig(model=folder, dtype=dtype, device="cpu")
    runner = load_model_runner(model, CacheConfig(num_blocks=8), SchedulerConfig(), lambda stage: None)
    tokenizer = Tokenizer.from_file(runner.info.tokenizer_dir + "/tokenizer.json")
    chat = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    chat += "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    prompt, key, output = tokenizer.encode(chat).ids, RequestKey(1), []
    new = NewRequestData(
        key, tuple(prompt), len(prompt), SamplingParams(max_tokens=9, temperature=0.0), Task.GENERATE, (5, 2, 7)
    )
    span = ScheduledRequest(key, 0, len(prompt), (), True)
    for index in range(9):
        result = runner.execute(SchedulerOutput(index, (new,) if index == 0 else (), (span,)))
        output.append(result.sampled_token_ids[key])
        span = ScheduledRequest(key, len(prompt) + index, 1, (), True)
        if output[-1] in runner.info.eos_token_ids:
            break
    assert tokenizer.decode(output, skip_special_tokens=False) == "The capital of France is Paris.<|im_end|>"
