"""What runs a model, and why nothing does, by its config.json alone."""

import json
import os
import subprocess
import sys

import pytest
import transformers

from engine_core.model_kind import ModelPath, check_model_folder, model_path
from ipc.errors import ConfigError
from tests.engine_core.model.decoder.families import FAMILIES, SIZES
from tests.safetensors_files import write_safetensors


def config_of(config_class: str, architecture: str, **values):
    """What transformers' own class writes."""
    config = getattr(transformers, config_class)(**values, architectures=[architecture])
    return json.loads(config.to_json_string())


@pytest.mark.parametrize("name", FAMILIES)
def test_the_families_of_the_decoder_are_native(name):
    kind, extra = FAMILIES[name]
    config_class = "Gemma3TextConfig" if kind == "Gemma3" else f"{kind}Config"
    assert model_path(config_of(config_class, f"{kind}ForCausalLM", **{**SIZES, **extra})) is ModelPath.NATIVE


@pytest.mark.parametrize(
    ("config_class", "architecture"),
    [
        ("GPT2Config", "GPT2LMHeadModel"),
        ("GPTNeoXConfig", "GPTNeoXForCausalLM"),
        ("PhiConfig", "PhiForCausalLM"),
        ("OPTConfig", "OPTForCausalLM"),
        ("MixtralConfig", "MixtralForCausalLM"),
    ],
)
def test_other_decoders_are_left_to_transformers(config_class, architecture):
    assert model_path(config_of(config_class, architecture)) is ModelPath.TRANSFORMERS


@pytest.mark.parametrize("name", ["Bert", "Roberta", "XLMRoberta", "DistilBert", "MPNet"])
def test_sentence_encoders_have_a_network_of_their_own(name):
    assert model_path(config_of(f"{name}Config", f"{name}Model")) is ModelPath.ENCODER
    with pytest.raises(ConfigError, match="ForSequenceClassification is not served"):
        model_path(config_of(f"{name}Config", f"{name}ForSequenceClassification"))


def test_code_that_a_config_names_does_not_matter_where_the_type_is_known():
    config = config_of("Phi3Config", "Phi3ForCausalLM") | {"auto_map": {"AutoConfig": "configuration_phi3.Phi3Config"}}
    assert model_path(config) is ModelPath.NATIVE


@pytest.mark.parametrize(
    ("config_class", "architecture", "reason"),
    [
        ("T5Config", "T5ForConditionalGeneration", "encoder-decoder"),
        ("BartConfig", "BartForConditionalGeneration", "encoder-decoder"),
        ("WhisperConfig", "WhisperForConditionalGeneration", "encoder-decoder"),
        ("LlavaConfig", "LlavaForConditionalGeneration", "vision"),
        ("Qwen2VLConfig", "Qwen2VLForConditionalGeneration", "vision"),
        ("Gemma3Config", "Gemma3ForConditionalGeneration", "vision"),
        ("MambaConfig", "MambaForCausalLM", "state-space"),
        ("Mamba2Config", "Mamba2ForCausalLM", "state-space"),
        ("JambaConfig", "JambaForCausalLM", "state-space"),
        ("RwkvConfig", "RwkvForCausalLM", "state-space"),
        ("RecurrentGemmaConfig", "RecurrentGemmaForCausalLM", "recurrent"),
        ("Lfm2Config", "Lfm2ForCausalLM", "convolution"),
        ("Qwen3NextConfig", "Qwen3NextForCausalLM", "linear_attention"),
        ("ElectraConfig", "ElectraModel", "encoder"),
        ("DebertaV2Config", "DebertaV2ForMaskedLM", "encoder"),
        ("LlamaConfig", "LlamaForSequenceClassification", "classifier"),
        ("BloomConfig", "BloomForCausalLM", "ALiBi"),
        ("MptConfig", "MptForCausalLM", "ALiBi"),
        ("FalconConfig", "FalconForCausalLM", "attention interface"),
        ("GPTNeoConfig", "GPTNeoForCausalLM", "attention interface"),
    ],
)
def test_what_cannot_be_computed_is_one_line_with_the_reason(config_class, architecture, reason):
    config = config_of(config_class, architecture)
    with pytest.raises(ConfigError, match=reason) as caught:
        model_path(config)
    assert config["model_type"] in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantization_config"),
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "quantization_config"),
        ({"model_type": "falcon", "alibi": True}, "ALiBi"),
        ({"model_type": "own", "auto_map": {"AutoModelForCausalLM": "own.Model"}}, "auto_map"),
        ({"model_type": "martian"}, r"transformers 5.* knows no models of type martian"),
        ({"model_type": None}, "model_type"),
        ({"model_type": ["a"]}, "model_type"),
    ],
)
def test_values_that_decide(values, reason):
    with pytest.raises(ConfigError, match=reason):
        model_path(config_of("LlamaConfig", "LlamaForCausalLM") | values)


@pytest.mark.parametrize("layer_types", [3, "x", [["linear_attention"]], [None], {}])
def test_strange_layer_types_are_left_to_transformers(layer_types):
    config = config_of("GPTNeoXConfig", "GPTNeoXForCausalLM") | {"layer_types": layer_types}
    assert model_path(config) is ModelPath.TRANSFORMERS


def test_weights_are_looked_at_too(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config_of("GPT2Config", "GPT2LMHeadModel")))
    write_safetensors(tmp_path / "model.safetensors", a=("F32", [4]))
    check_model_folder(tmp_path)
    os.truncate(tmp_path / "model.safetensors", (tmp_path / "model.safetensors").stat().st_size - 1)
    with pytest.raises(ConfigError, match="malformed"):
        check_model_folder(tmp_path)


def test_torch_is_not_imported():
    code = (
        "import sys; from engine_core.model_kind import model_path\n"
        "model_path({'model_type': 'gpt2', 'architectures': ['GPT2LMHeadModel']})\n"
        "print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
