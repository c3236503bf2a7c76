"""What kind of model a `config.json` describes and what runs it, told in a moment: neither torch nor weights are read.

Asked by the core before it imports torch, by `memory_plan.py`, by `fast_inference/hub_download.py` before it downloads
weights, and by `fast-inference models`. A kind that nothing here computes is a `ConfigError` that names the reason.
What only shows in the model's own code is refused later, by `model/transformers_network.py`.
"""

from collections.abc import Callable, Mapping
from enum import StrEnum
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from engine_core.config_values import read_json_object
from engine_core.model.decoder.config import DecoderConfig
from engine_core.model.encoder.config import EncoderConfig
from engine_core.weight_files import stored_tensors
from ipc.errors import ConfigError

Config = Mapping[str, Any]


class ModelPath(StrEnum):
    """What runs a model."""

    NATIVE = "native"
    """The decoder of `model/decoder`."""
    ENCODER = "encoder"
    """The sentence encoder of `model/encoder`, which gives vectors and no text."""
    TRANSFORMERS = "transformers"
    """The model of transformers, with our attention in it."""


_OTHER_SENSES = (
    *("vision_config", "vision_tower", "mm_vision_tower", "visual", "image_token_id", "image_token_index"),
    *("audio_config", "audio_token_id", "audio_token_index", "speech_config"),
)
"""Keys that only models with pictures or sound have."""
_STATES = (
    *("mamba_d_state", "mamba_d_conv", "ssm_state_size", "state_size", "ssm_cfg", "lru_width", "conv_L_cache"),
    *("linear_conv_kernel_dim", "linear_key_head_dim", "attention_hidden_size", "hybrid_override_pattern"),
)
"""Keys of state-space, recurrent and linear-attention layers."""
_STATE_LAYERS = frozenset({"linear_attention", "mamba", "mamba2", "conv", "recurrent", "hybrid", "moe_mamba"})
_STATE_TYPES = frozenset({"kimi_linear", "mamba", "mamba2", "rwkv", "xlstm"})
_ENCODER_TYPES = frozenset(
    {
        *("albert", "bert", "big_bird", "camembert", "convbert", "data2vec-text", "deberta", "deberta-v2"),
        *("distilbert", "electra", "ernie", "esm", "eurobert", "funnel", "gte", "ibert", "jina_embeddings_v3"),
        *("layoutlm", "longformer", "luke", "megatron-bert", "mobilebert", "modernbert", "mpnet", "nomic_bert"),
        *("rembert", "roberta", "roberta-prelayernorm", "roformer", "squeezebert", "xlm-roberta", "xmod"),
        "xlm-roberta-xl",
    }
)
_ENCODER_ENDINGS = ("ForMaskedLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
_ALIBI_TYPES = frozenset({"bloom", "mpt"})


def model_path(config: Config) -> ModelPath:
    """What runs the model of a `config.json`.

    Raises:
        ConfigError: nothing here does; one line with the reason.
    """
    if DecoderConfig.try_from(config) is not None:
        return ModelPath.NATIVE
    if EncoderConfig.try_from(config) is not None:
        return ModelPath.ENCODER
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise ConfigError("config.json names no model_type")
    for is_so, reason in _REFUSED:
        if is_so(config):
            raise ConfigError(f"{_short(model_type)} models cannot be run here: {reason}")
    models = _transformers_models()
    if models is not None and not _has_type(models, model_type):
        if config.get("auto_map"):
            raise ConfigError(
                f"{_short(model_type)} models are code of their own (auto_map), and code of a model folder never runs"
            )
        raise ConfigError(f"transformers {version('transformers')} knows no models of type {_short(model_type)}")
    if models is not None and _has_own_attention(models, model_type):
        raise ConfigError(
            f"{_short(model_type)} models cannot be run here: in transformers they do not use its attention interface, "
            "so that ours cannot be put in"
        )
    return ModelPath.TRANSFORMERS


def check_model_folder(model_dir: Path) -> ModelPath:
    """What runs the model in a folder, as far as config.json and the headers of the weights tell.

    Raises:
        ConfigError: the kind of model is not computed here, or files are missing or damaged.
    """
    path = model_path(read_json_object(model_dir / "config.json"))
    stored_tensors(model_dir)
    return path


def architecture_of(config: Config) -> str:
    """The first class that a config names; empty where it names none."""
    names = config.get("architectures")
    return str(names[0]) if isinstance(names, list) and names else ""


def _is_encoder_decoder(config: Config) -> bool:
    return bool(config.get("is_encoder_decoder")) or ("decoder" in config and "encoder" in config)


def _has_other_senses(config: Config) -> bool:
    return any(config.get(name) is not None for name in _OTHER_SENSES)


def _has_state_layers(config: Config) -> bool:
    types = config.get("layer_types") or config.get("layers_block_type") or ()
    has_such = isinstance(types, list) and any(isinstance(kind, str) and kind in _STATE_LAYERS for kind in types)
    return has_such or config["model_type"] in _STATE_TYPES or any(config.get(name) is not None for name in _STATES)


def _is_conditional(config: Config) -> bool:
    return architecture_of(config).endswith("ForConditionalGeneration")


def _is_encoder(config: Config) -> bool:
    is_one = config["model_type"] in _ENCODER_TYPES and config.get("is_decoder") is not True
    return is_one or architecture_of(config).endswith(_ENCODER_ENDINGS)


def _is_quantized(config: Config) -> bool:
    return config.get("quantization_config") is not None


def _has_alibi(config: Config) -> bool:
    return config["model_type"] in _ALIBI_TYPES or bool(config.get("alibi"))


_REFUSED: tuple[tuple[Callable[[Config], bool], str], ...] = (
    (_is_encoder_decoder, "an encoder-decoder is not a decoder-only language model"),
    (_has_other_senses, "it sees or hears (vision or audio), and only text is served"),
    (_has_state_layers, "its state-space, recurrent, convolution or linear_attention layers have no KV cache"),
    (_is_conditional, "ForConditionalGeneration is an encoder-decoder or takes more than text"),
    (_is_encoder, "an encoder or classifier generates no text, and this one is none of those that give vectors here"),
    (_is_quantized, "its weights are quantized (quantization_config); give the original ones, or a GGUF file"),
    (_has_alibi, "ALiBi positions are not supported"),
)


def _transformers_models() -> Path | None:
    """The folder of transformers' models, whose files are read as text: to import the package takes half a second."""
    package = find_spec("transformers")
    return None if package is None or package.origin is None else Path(package.origin).parent / "models"


def _has_type(models: Path, model_type: str) -> bool:
    """By transformers' table of types; without that file, it may."""
    table = models / "auto" / "auto_mappings.py"
    return not table.is_file() or f'("{model_type}", "' in table.read_text(encoding="utf-8")


def _has_own_attention(models: Path, model_type: str) -> bool:
    """Whether the model's module never asks for the attention that is configured; without that file, it may not."""
    name = model_type.replace("-", "_")
    module = models / name / f"modeling_{name}.py"
    return module.is_file() and "ALL_ATTENTION_FUNCTIONS" not in module.read_text(encoding="utf-8")


def _short(model_type: str) -> str:
    return " ".join(model_type.split())[:40]
