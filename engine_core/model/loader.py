"""Builds a `TransformersModelRunner` from the settings: device, dtype, memory plan, tokenizer, weights, cache, check.

Called once by `engine_core/process.py`. Everything that can be wrong with a model folder or with the flags is a
`ConfigError` of one line, found as early as possible: what would be computed wrongly is refused here, not served.
Only local files are read and no code of a model repository is ever run.
Next: `engine_core/memory_plan.py`, `model_runner.py`.
"""

import hashlib
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from engine_core.memory_plan import MemoryPlan, ModelShape, available_memory_bytes, plan_memory, read_model_shape
from engine_core.model.attention import ATTENTION_NAME, UnsupportedAttentionError, register_attention
from engine_core.model.kv_tensors import allocate_kv_tensors
from engine_core.model.model_runner import TransformersModelRunner
from engine_core.outputs import ModelInfo
from engine_core.tokenizer_export import TOKENIZER_FILE, export_tokenizer
from ipc.config import CacheConfig, ModelConfig, SchedulerConfig
from ipc.errors import ConfigError

logger = logging.getLogger(__name__)

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


def load_model_runner(
    model: ModelConfig, cache: CacheConfig, scheduler: SchedulerConfig, report: Callable[[str], None]
) -> TransformersModelRunner:
    """Load a model folder and make it ready to run steps.

    Args:
        model: which model, on what, in which precision; `model.model` is a folder.
        cache: size of the KV cache.
        scheduler: limits of a step, for the memory plan.
        report: told each stage, for people.

    Raises:
        ConfigError: the model cannot be run with these settings.
    """
    report("preparing")
    device = _resolve_device(model.device)
    dtype = _resolve_dtype(model.dtype, device)
    _set_threads(model.threads)
    model_dir = Path(model.model)
    if not (model_dir / "config.json").is_file():
        raise ConfigError(f"no model folder at {model.model}: config.json is missing")
    shape = read_model_shape(model_dir)
    plan = plan_memory(
        shape,
        dtype_bytes=dtype.itemsize,
        max_model_len=model.max_model_len,
        cache=cache,
        scheduler=scheduler,
        available_bytes=_available_bytes(device),
        on_cuda=device.type == "cuda",
    )
    logger.info("%s, %s: %s", device.type, _name(dtype), plan.describe())
    for note in plan.notes:
        logger.warning("%s", note)

    report("reading the configuration")
    _quiet_libraries()
    config = _read_config(model_dir)
    _check_supported(config, plan.max_model_len)
    tokenizer_dir = export_tokenizer(model_dir, model.tokenizer)

    report(f"loading weights ({_name(dtype)}, {device.type})")
    register_attention()
    network = _load_network(model_dir, config, dtype).to(device)
    report("checking the model")
    info = _model_info(model, model_dir, tokenizer_dir, network, plan, dtype, device)
    runner = TransformersModelRunner(network, _allocate(shape, plan, dtype, device), info)
    try:
        runner.check_model()
    except (UnsupportedAttentionError, RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise ConfigError(f"cannot run {config.model_type} models like {model.model}: {_line(error)}") from error
    return runner


# --- device, precision, threads ----------------------------------------------------------------------------------


def _resolve_device(asked: str) -> torch.device:
    if asked == "cpu":
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    if asked == "cuda":
        raise ConfigError("--device cuda: torch finds no CUDA device (use --device cpu)")
    return torch.device("cpu")


def _resolve_dtype(asked: str, device: torch.device) -> torch.dtype:
    """On a CPU without bf16 arithmetic, bf16 prefill is several times slower than fp32."""
    if asked == "float32":
        return torch.float32
    if asked == "bfloat16" or device.type == "cuda":
        return torch.bfloat16
    return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32


def _set_threads(asked: int | None) -> None:
    """Use the CPUs that this process may run on; must come before the first operation."""
    torch.set_num_threads(asked or len(os.sched_getaffinity(0)))


def _available_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        free_bytes, _ = torch.cuda.mem_get_info(device)
        return int(free_bytes)
    return available_memory_bytes()


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# --- the model -----------------------------------------------------------------------------------------------------


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
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
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


def _load_network(model_dir: Path, config: Any, dtype: torch.dtype) -> Any:
    import transformers
    from safetensors import SafetensorError

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
    except (OSError, ValueError, KeyError, TypeError, ImportError, RuntimeError, SafetensorError) as error:
        raise ConfigError(f"cannot load {model_dir}: {_line(error)}") from error
    missing = sorted(loading["missing_keys"])
    if missing:
        raise ConfigError(f"{model_dir} lacks {len(missing)} weights, such as {missing[0]}")
    return network.eval()


def _allocate(shape: ModelShape, plan: MemoryPlan, dtype: torch.dtype, device: torch.device) -> Any:
    return allocate_kv_tensors(
        num_layers=shape.num_layers,
        num_blocks=plan.num_blocks,
        block_size=plan.block_size,
        num_kv_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        dtype=dtype,
        device=device,
    )


# --- facts -----------------------------------------------------------------------------------------------------------


def _model_info(
    model: ModelConfig,
    model_dir: Path,
    tokenizer_dir: Path,
    network: Any,
    plan: MemoryPlan,
    dtype: torch.dtype,
    device: torch.device,
) -> ModelInfo:
    text = network.config.get_text_config()
    return ModelInfo(
        model_id=model.model,
        fingerprint=_fingerprint(model_dir, tokenizer_dir, dtype),
        tokenizer_dir=str(tokenizer_dir.absolute()),
        vocab_size=network.get_output_embeddings().weight.shape[0],
        eos_token_ids=_eos_token_ids(network),
        max_model_len=plan.max_model_len,
        num_blocks=plan.num_blocks,
        embedding_size=text.hidden_size,
        dtype=_name(dtype),
        device=device.type,
    )


def _eos_token_ids(network: Any) -> tuple[int, ...]:
    """From generation_config.json, else from config.json; either may be one id or several."""
    generation = getattr(network.generation_config, "eos_token_id", None)
    ids = generation if generation is not None else network.config.get_text_config().eos_token_id
    if ids is None:
        return ()
    return (ids,) if isinstance(ids, int) else tuple(ids)


def _fingerprint(model_dir: Path, tokenizer_dir: Path, dtype: torch.dtype) -> str:
    """Changes when other numbers or other tokens would come out: two cores with equal ones may resume each other."""
    digest = hashlib.sha256(_name(dtype).encode())
    for name in ("config.json", "generation_config.json"):
        path = model_dir / name
        digest.update(path.read_bytes() if path.is_file() else b"-")
    for path in (*sorted(model_dir.glob("*.safetensors")), tokenizer_dir / TOKENIZER_FILE):
        stat = path.stat()
        digest.update(f"{path.name}:{stat.st_size}:{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:32]


def _line(error: BaseException) -> str:
    """The first line of an error, with its type."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__
