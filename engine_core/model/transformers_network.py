"""Any decoder-only model of transformers that uses its attention registry, with our paged attention in it.

Chosen by `loader.py` where no network of our own fits. What would be computed wrongly is refused, by the config or by
running a few tokens both ways; only local files are read and no code of a model repository is ever run.
Importing transformers takes seconds, so it happens inside the functions. Next: `transformers_attention.py`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine_core.model.attention import AttentionMetadata, UnsupportedAttentionError, build_attention_metadata
from engine_core.model.kv_tensors import KVTensors
from engine_core.model.network import CHECK_TOKENS, check_decode, is_close
from engine_core.model.request_span import RequestSpan
from engine_core.model.transformers_attention import ATTENTION_NAME, register_attention
from ipc.errors import ConfigError

_MAX_MESSAGE = 200
"""Characters of a foreign message that are shown."""
_LAYER_TYPES = frozenset({"full_attention", "sliding_attention"})
_UNSUPPORTED_SETTINGS: tuple[tuple[str, tuple[object, ...]], ...] = (
    # name in the config, and the values with which the model is an ordinary one
    ("is_encoder_decoder", (False,)),
    ("quantization_config", ()),
    ("attn_logit_softcapping", ()),
    ("final_logit_softcapping", ()),
    ("logit_scale", (1, 1.0)),
    ("logits_scaling", (1, 1.0)),
    ("kv_lora_rank", ()),
    ("num_kv_shared_layers", (0,)),
    ("alibi", (False,)),
    ("attention_chunk_size", ()),
    ("use_bidirectional_attention", (False,)),
)


class TransformersNetwork:
    """Implements `Network`."""

    def __init__(self, network: Any) -> None:
        """Take over a loaded `PreTrainedModel` whose attention implementation is `ATTENTION_NAME`."""
        self._network = network
        self._base = network.base_model
        self._lm_head = network.get_output_embeddings()

    @classmethod
    def load(
        cls, model_dir: Path, dtype: torch.dtype, device: torch.device, max_model_len: int
    ) -> "TransformersNetwork":
        """Load a model folder.

        Raises:
            ConfigError: it is no model that we compute right, or its files are damaged.
        """
        _quiet_libraries()
        config = _read_config(model_dir)
        _check_supported(config, max_model_len)
        register_attention()
        return cls(_load(model_dir, config, dtype).to(device))

    @classmethod
    def take_over(cls, network: Any, max_model_len: int) -> "TransformersNetwork":
        """Give our attention to a `PreTrainedModel` that its user has loaded; the caller checks it.

        Raises:
            ConfigError: it is no model that we compute right.
        """
        _check_supported(network.config, max_model_len)
        register_attention()
        network.set_attn_implementation(ATTENTION_NAME)
        return cls(network)

    @property
    def vocab_size(self) -> int:
        """Number of logits."""
        return int(self._lm_head.weight.shape[0])

    @property
    def hidden_size(self) -> int:
        """Length of a hidden state."""
        return int(self._network.config.get_text_config().hidden_size)

    def hidden_states(
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        metadata: AttentionMetadata,
        kv_tensors: KVTensors,
    ) -> torch.Tensor:
        """`[num_tokens, hidden_size]` after the last norm."""
        output = self._base(**_arguments(input_ids, positions, metadata, kv_tensors))
        hidden: torch.Tensor = output[0][0]
        return hidden

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """`[rows, vocab_size]` for `[rows, hidden_size]`."""
        logits: torch.Tensor = self._lm_head(hidden)
        return logits

    def check(self, kv_tensors: KVTensors) -> None:
        """Run a few tokens; leaves the cache zeroed.

        Raises:
            UnsupportedAttentionError: some layer did not use our attention, or the model does more between the hidden
                states and the logits than its output layer.
        """
        logits = check_decode(self, kv_tensors)
        slots = np.arange(CHECK_TOKENS, dtype=np.int64)
        metadata = build_attention_metadata([RequestSpan(0, CHECK_TOKENS, 0, slots.astype(np.int32), 1)], kv_tensors)
        positions = torch.from_numpy(slots).to(kv_tensors.device)
        whole = self._network(**_arguments(positions % self.vocab_size, positions, metadata, kv_tensors)).logits[0]
        if logits.shape != whole.shape or not is_close(logits, whole):
            raise UnsupportedAttentionError("the model changes its logits after the output layer")
        for tensor in (*kv_tensors.keys, *kv_tensors.values):
            tensor[:CHECK_TOKENS].zero_()


def _arguments(
    input_ids: torch.Tensor, positions: torch.Tensor, metadata: AttentionMetadata, kv_tensors: KVTensors
) -> dict[str, Any]:
    return {
        "input_ids": input_ids[None],
        "position_ids": positions[None],
        "use_cache": False,
        "attention_metadata": metadata,
        "kv_tensors": kv_tensors,
    }


# --- loading ---------------------------------------------------------------------------------------------------------


def _quiet_libraries() -> None:
    """Our process reports its own progress; transformers' bars and advice would only mix with it."""
    from transformers import utils

    transformers_logging: Any = utils.logging
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def _read_config(model_dir: Path) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(model_dir, local_files_only=True, trust_remote_code=False)
    except _failures() as error:
        raise ConfigError(f"cannot use {model_dir / 'config.json'}: {_line(error)}") from error


def _check_supported(config: Any, max_model_len: int) -> None:
    """Refuse what our attention or our flat batch would compute wrongly."""
    from transformers import AutoModelForCausalLM

    if type(config) not in AutoModelForCausalLM._model_mapping:
        raise ConfigError(f"{config.model_type} is no decoder-only causal language model")
    text = config.get_text_config()
    for name, ordinary in _UNSUPPORTED_SETTINGS:
        value = getattr(text, name, None)
        if value is not None and value not in ordinary:
            raise ConfigError(f"{config.model_type} models with {name} = {str(value)[:40]} are not supported")
    unknown = set(getattr(text, "layer_types", None) or ()) - _LAYER_TYPES
    if unknown:
        raise ConfigError(f"{config.model_type} models with {', '.join(sorted(unknown))} layers are not supported")
    for rope in _rope_parameters(getattr(text, "rope_parameters", None)):
        _check_rope(rope, text, max_model_len)


def _rope_parameters(parameters: Any) -> Iterator[dict[str, Any]]:
    """The dictionaries with a `rope_type`: one, or one per layer type."""
    if not isinstance(parameters, dict):
        return
    if "rope_type" in parameters:
        yield parameters
    else:
        for nested in parameters.values():
            yield from _rope_parameters(nested)


def _check_rope(rope: dict[str, Any], text: Any, max_model_len: int) -> None:
    """Some variants choose their frequencies by the longest position in the batch, so requests would interfere."""
    if rope["rope_type"] == "dynamic":
        raise ConfigError("rotary embeddings of the type 'dynamic' are not supported")
    if rope["rope_type"] == "longrope":
        original = rope.get("original_max_position_embeddings") or getattr(
            text, "original_max_position_embeddings", text.max_position_embeddings
        )
        if max_model_len > original:
            raise ConfigError(f"'longrope' models run up to their original length: use --max-model-len {original}")


def _load(model_dir: Path, config: Any, dtype: torch.dtype) -> Any:
    import transformers

    auto_model: Any = transformers.AutoModelForCausalLM
    try:
        network, loading = auto_model.from_pretrained(
            model_dir,
            config=config,
            dtype=dtype,
            attn_implementation=ATTENTION_NAME,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except _failures() as error:
        raise ConfigError(f"cannot load {model_dir}: {_line(error)}") from error
    missing = sorted(loading["missing_keys"])
    if missing:
        raise ConfigError(f"{model_dir} lacks {len(missing)} weights, such as {missing[0]}")
    return network.eval()


def _failures() -> tuple[type[Exception], ...]:
    """What transformers raises for files that it cannot use; a strange config can break it anywhere."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    usual: tuple[type[Exception], ...] = (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError)
    return (*usual, AssertionError, ImportError, RuntimeError, StrictDataclassError, SafetensorError)


def _line(error: BaseException) -> str:
    """An error in one line, with its type."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:_MAX_MESSAGE]}" if text else type(error).__name__
