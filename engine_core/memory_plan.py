"""Decides before anything is loaded what fits: weights, KV cache blocks, and the longest request.

A sentence encoder has no KV cache; its texts are computed whole, so the longest one must fit into a step.

Works from config.json and the headers of the safetensors files, so it needs no torch. `engine_core/model/loader.py` and
`fast-inference plan` both call `plan_model`, so what the command says is what a core does.
Invariant: a returned plan fits into the memory that was found; whatever does not is a `ConfigError` with the numbers
and the flag that would work.
Next: `engine_core/model/kv_tensors.py` allocates what the plan says.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path

from engine_core.config_values import ConfigValues, read_json_object
from engine_core.cpus import available_cpus
from engine_core.device import (
    DTYPE_BYTES,
    WHOLE_MACHINE,
    DeviceType,
    DtypeName,
    MachineShare,
    available_bytes,
    resolve_device,
    resolve_dtype,
)
from engine_core.model.encoder.config import EncoderConfig
from engine_core.model.lora.adapter_files import open_adapters
from engine_core.model_kind import model_path
from engine_core.sentence_files import read_sentence_files
from engine_core.weight_files import stored_tensors
from ipc.config import CacheConfig, ModelConfig, SchedulerConfig
from ipc.errors import ConfigError

CPU_KV_SHARE = 0.5
"""Most of the memory left after the weights that the KV cache takes by default on CPU."""
CUDA_KV_SHARE = 0.9
MIN_BLOCKS = 2
_LENGTH_KEYS = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "n_ctx")
_FLOAT_DTYPES = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"})


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What the plan must know about a model."""

    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    hidden_size: int
    intermediate_size: int
    vocab_size: int
    max_model_len: int
    """The model's own limit; 0 where its config does not say."""
    num_parameters: int
    num_adapter_values: int = 0
    """Numbers that are kept of LoRA adapters."""

    def weights_bytes(self, dtype_bytes: int) -> int:
        """The model's and its adapters'."""
        return (self.num_parameters + self.num_adapter_values) * dtype_bytes

    def kv_bytes_per_token(self, dtype_bytes: int) -> int:
        """Keys and values of one token in all layers."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * dtype_bytes


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """What will be allocated; sizes in bytes."""

    weights_bytes: int
    workspace_bytes: int
    """Estimate of the largest step's activations and logits."""
    kv_bytes_per_token: int
    block_size: int
    num_blocks: int
    max_model_len: int
    available_bytes: int
    notes: tuple[str, ...] = ()
    """What was made smaller than asked for, in sentences for people."""
    share: MachineShare = WHOLE_MACHINE
    """What `available_bytes` is a part of."""

    @property
    def kv_cache_bytes(self) -> int:
        """All blocks."""
        return self.num_blocks * self.block_size * self.kv_bytes_per_token

    @property
    def needed_bytes(self) -> int:
        """Everything together."""
        return self.weights_bytes + self.workspace_bytes + self.kv_cache_bytes

    @property
    def max_concurrency(self) -> float:
        """How many requests of the full length fit at once."""
        return self.num_blocks * self.block_size / self.max_model_len

    def describe(self) -> str:
        """One line for the log."""
        if not self.num_blocks:
            return (
                f"weights {format_bytes(self.weights_bytes)}, no KV cache, texts of {self.max_model_len} tokens, "
                f"{format_bytes(self.available_bytes)} {self.share.text}"
            )
        return (
            f"weights {format_bytes(self.weights_bytes)}, KV cache {format_bytes(self.kv_cache_bytes)} "
            f"({self.num_blocks} blocks of {self.block_size} tokens, {self.kv_bytes_per_token} bytes per token), "
            f"{self.max_concurrency:.1f} requests of {self.max_model_len} tokens, "
            f"{format_bytes(self.available_bytes)} {self.share.text}"
        )


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """Everything that is decided before a model is loaded."""

    device: DeviceType
    dtype: DtypeName
    num_threads: int
    """That compute together."""
    shape: ModelShape
    memory: MemoryPlan
    encoder: EncoderConfig | None = None
    """Of a sentence encoder."""


def plan_model(
    model: ModelConfig,
    cache: CacheConfig,
    scheduler: SchedulerConfig,
    share: MachineShare = WHOLE_MACHINE,
) -> ModelPlan:
    """Plan a model on this machine, as it is now, or on a share of it; `model.model` is a folder.

    Raises:
        ConfigError: the folder holds no model that can be read and run here, or it cannot fit.
    """
    model_dir = Path(model.model)
    if not (model_dir / "config.json").is_file():
        raise ConfigError(f"no model folder at {model.model}: config.json is missing")
    config = read_json_object(model_dir / "config.json")
    model_path(config)
    device = resolve_device(model.device)
    num_threads = model.threads or available_cpus(num_cores=share.num_cores)
    encoder = EncoderConfig.try_from(config)
    if encoder is not None:
        # these models are small, and their vectors are compared
        encoder_dtype: DtypeName = "float32" if model.dtype == "auto" else model.dtype
        shape = _encoder_shape(encoder, model_dir)
        own_length = read_sentence_files(model_dir).max_seq_length or shape.max_model_len
        memory = plan_encoder_memory(
            shape,
            dtype_bytes=DTYPE_BYTES[encoder_dtype],
            max_model_len=model.max_model_len or min(own_length, shape.max_model_len),
            cache=cache,
            scheduler=scheduler,
            available_bytes=available_bytes(device, share),
        )
        return ModelPlan(device, encoder_dtype, num_threads, shape, replace(memory, share=share), encoder)
    dtype = resolve_dtype(model.dtype, device)
    num_adapter_values = sum(adapter.num_values for adapter in open_adapters(model))
    shape = replace(read_model_shape(model_dir), num_adapter_values=num_adapter_values)
    memory = plan_memory(
        shape,
        dtype_bytes=DTYPE_BYTES[dtype],
        max_model_len=model.max_model_len,
        cache=cache,
        scheduler=scheduler,
        available_bytes=available_bytes(device, share),
        on_cuda=device == "cuda",
    )
    return ModelPlan(device, dtype, num_threads, shape, replace(memory, share=share))


def read_model_shape(model_dir: Path) -> ModelShape:
    """Read config.json and the headers of all `*.safetensors` in a model folder.

    Raises:
        ConfigError: a file is missing or malformed, or the config lacks a size.
    """
    config = ConfigValues(read_json_object(model_dir / "config.json"))
    text = config
    if not config.is_null("text_config"):
        text = ConfigValues(config["text_config"], where="config.json: text_config")
    hidden_size = _size(text, "hidden_size", "n_embd", "d_model")
    num_heads = _size(text, "num_attention_heads", "n_head", "n_heads", "num_heads")
    head_dim = _optional_size(text, "head_dim") or hidden_size // num_heads
    if not head_dim:
        raise ConfigError(f"config.json: hidden_size {hidden_size} is too small for {num_heads} heads")
    return ModelShape(
        num_layers=_size(text, "num_hidden_layers", "n_layer", "n_layers", "num_layers"),
        num_heads=num_heads,
        num_kv_heads=_num_kv_heads(text) or num_heads,
        head_dim=head_dim,
        hidden_size=hidden_size,
        intermediate_size=_optional_size(text, "intermediate_size", "n_inner", "ffn_dim") or 4 * hidden_size,
        vocab_size=_size(text, "vocab_size"),
        max_model_len=_optional_size(text, *_LENGTH_KEYS),
        num_parameters=_num_parameters(model_dir),
    )


def plan_encoder_memory(
    shape: ModelShape,
    *,
    dtype_bytes: int,
    max_model_len: int | None,
    cache: CacheConfig,
    scheduler: SchedulerConfig,
    available_bytes: int,
) -> MemoryPlan:
    """The plan of a sentence encoder: weights and the workspace of a step, which must take a text of the full length.

    Raises:
        ConfigError: it cannot fit; the message has the numbers and a flag that would work.
    """
    model_len = _wanted_model_len(shape, max_model_len)
    weights_bytes = shape.num_parameters * dtype_bytes
    num_tokens = scheduler.max_num_batched_tokens
    workspace_bytes = num_tokens * _step_bytes_per_token(shape, dtype_bytes)
    if model_len > num_tokens:
        raise ConfigError(
            f"--max-num-batched-tokens {num_tokens}: a sentence encoder computes a text in one step: use "
            f"--max-num-batched-tokens {model_len} or more, or --max-model-len {num_tokens} or less"
        )
    if weights_bytes + workspace_bytes > available_bytes:
        raise ConfigError(
            f"needs {format_bytes(weights_bytes)} for weights and {format_bytes(workspace_bytes)} for a step; "
            f"{format_bytes(available_bytes)} of memory are available: use a smaller --max-num-batched-tokens, or a "
            "smaller model"
        )
    is_cache_asked_for = cache.num_blocks is not None or cache.kv_cache_memory_bytes is not None
    return MemoryPlan(
        weights_bytes=weights_bytes,
        workspace_bytes=workspace_bytes,
        kv_bytes_per_token=0,
        block_size=cache.block_size,
        num_blocks=0,
        max_model_len=model_len,
        available_bytes=available_bytes,
        notes=("a sentence encoder has no KV cache, whatever size is asked for",) if is_cache_asked_for else (),
    )


def plan_memory(
    shape: ModelShape,
    *,
    dtype_bytes: int,
    max_model_len: int | None,
    cache: CacheConfig,
    scheduler: SchedulerConfig,
    available_bytes: int,
    on_cuda: bool = False,
) -> MemoryPlan:
    """Divide `available_bytes` among weights, the workspace of a step and the KV cache.

    The KV cache gets what `cache` fixes; else, on CPU, room for max(4 * max_model_len, max_num_seqs * 1024) tokens
    but at most half of what is left after the weights, and on CUDA 90 % of what is left; two blocks in any case.
    `max_model_len` shrinks to what the cache holds, with a note, except where the caller asked for it and nothing else
    was fixed.

    Raises:
        ConfigError: it cannot fit; the message has the numbers and a flag that would work.
    """
    model_len, notes = _wanted_model_len(shape, max_model_len), []
    weights_bytes = shape.weights_bytes(dtype_bytes)
    workspace_bytes = _workspace_bytes(shape, dtype_bytes, scheduler)
    left_bytes = available_bytes - weights_bytes - workspace_bytes
    block_bytes = cache.block_size * shape.kv_bytes_per_token(dtype_bytes)
    if left_bytes < MIN_BLOCKS * block_bytes:
        raise ConfigError(
            f"needs {format_bytes(weights_bytes)} for weights, {format_bytes(workspace_bytes)} for a step and "
            f"{format_bytes(MIN_BLOCKS * block_bytes)} for two blocks of the KV cache; {format_bytes(available_bytes)} "
            f"of memory are available: use {_what_fits(shape, dtype_bytes, cache, scheduler, available_bytes)}"
        )
    if cache.num_blocks is not None:
        num_blocks = _fixed_blocks(cache.num_blocks, block_bytes, left_bytes, "--num-blocks")
    elif cache.kv_cache_memory_bytes is not None:
        asked = cache.kv_cache_memory_bytes // block_bytes
        num_blocks = _fixed_blocks(asked, block_bytes, left_bytes, "--kv-cache-memory-bytes")
    else:
        num_blocks = int(left_bytes * (CUDA_KV_SHARE if on_cuda else CPU_KV_SHARE)) // block_bytes
        if not on_cuda:
            wanted = max(4 * model_len, scheduler.max_num_seqs * 1024)
            num_blocks = min(math.ceil(wanted / cache.block_size), num_blocks)
        num_blocks = max(num_blocks, MIN_BLOCKS)
        if max_model_len is not None:
            num_blocks = _blocks_for(max_model_len, num_blocks, cache.block_size, block_bytes, left_bytes)
    capacity = num_blocks * cache.block_size
    if capacity < model_len:
        notes.append(f"max_model_len is {capacity} instead of {model_len}: the KV cache holds no more tokens")
        model_len = capacity
    return MemoryPlan(
        weights_bytes=weights_bytes,
        workspace_bytes=workspace_bytes,
        kv_bytes_per_token=shape.kv_bytes_per_token(dtype_bytes),
        block_size=cache.block_size,
        num_blocks=num_blocks,
        max_model_len=model_len,
        available_bytes=available_bytes,
        notes=tuple(notes),
    )


def format_bytes(num_bytes: int) -> str:
    """A size for people, such as `1.5 GiB`."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if num_bytes >= size:
            return f"{num_bytes / size:.1f} {unit}"
    return f"{num_bytes} bytes"


# --- parts of the plan ---------------------------------------------------------------------------------------------


def _wanted_model_len(shape: ModelShape, asked: int | None) -> int:
    if shape.max_model_len and asked is not None and asked > shape.max_model_len:
        raise ConfigError(f"--max-model-len {asked}: the model was made for at most {shape.max_model_len} tokens")
    model_len = asked or shape.max_model_len
    if not model_len:
        raise ConfigError("the model's config does not name its longest input: give --max-model-len")
    return model_len


def _workspace_bytes(shape: ModelShape, dtype_bytes: int, scheduler: SchedulerConfig) -> int:
    logits = _max_logit_rows(scheduler) * shape.vocab_size * 4 * 3  # fp32 logits, scaled logits, probabilities
    return scheduler.max_num_batched_tokens * _step_bytes_per_token(shape, dtype_bytes) + logits


def _max_logit_rows(scheduler: SchedulerConfig) -> int:
    """One for each request, and one for each draft token."""
    if scheduler.speculative == "off":
        return scheduler.max_num_seqs
    num_drafted = min(scheduler.speculative_max_batch, scheduler.max_num_seqs)
    return max(scheduler.max_num_seqs, num_drafted * (1 + scheduler.speculative_tokens))


def _step_bytes_per_token(shape: ModelShape, dtype_bytes: int) -> int:
    num_values = 6 * shape.hidden_size + 3 * shape.intermediate_size + 2 * shape.num_heads * shape.head_dim
    num_adapted_values = 3 * shape.intermediate_size + shape.hidden_size if shape.num_adapter_values else 0
    return num_values * dtype_bytes + num_adapted_values * 4


def _what_fits(
    shape: ModelShape, dtype_bytes: int, cache: CacheConfig, scheduler: SchedulerConfig, available_bytes: int
) -> str:
    """What to use where not even two blocks fit; each flag alone is enough."""

    def missing_bytes(dtype_bytes: int) -> int:
        blocks_bytes = MIN_BLOCKS * cache.block_size * shape.kv_bytes_per_token(dtype_bytes)
        workspace_bytes = _workspace_bytes(shape, dtype_bytes, scheduler)
        return shape.weights_bytes(dtype_bytes) + workspace_bytes + blocks_bytes - available_bytes

    missing = missing_bytes(dtype_bytes)
    choices = []
    if dtype_bytes > DTYPE_BYTES["bfloat16"] and missing_bytes(DTYPE_BYTES["bfloat16"]) <= 0:
        choices.append("--dtype bfloat16")
    num_tokens = scheduler.max_num_batched_tokens - math.ceil(missing / _step_bytes_per_token(shape, dtype_bytes))
    if num_tokens >= max(16, scheduler.max_num_seqs):
        choices.append(f"--max-num-batched-tokens {num_tokens} or less")
    block_size = cache.block_size - math.ceil(missing / (MIN_BLOCKS * shape.kv_bytes_per_token(dtype_bytes)))
    if block_size >= 16:
        choices.append(f"--block-size {block_size // 16 * 16} or less")
    return ", ".join([*choices, "a smaller model"])


def _fixed_blocks(num_blocks: int, block_bytes: int, left_bytes: int, flag: str) -> int:
    """The number that the user asked for, if it is possible."""
    if num_blocks * block_bytes > left_bytes:
        raise ConfigError(
            f"{flag}: the KV cache needs {format_bytes(num_blocks * block_bytes)}, {format_bytes(left_bytes)} are left "
            f"after the weights: use --num-blocks {left_bytes // block_bytes} or less"
        )
    if num_blocks < MIN_BLOCKS:
        raise ConfigError(f"{flag}: the KV cache needs two blocks, {format_bytes(MIN_BLOCKS * block_bytes)}, at least")
    return num_blocks


def _blocks_for(model_len: int, num_blocks: int, block_size: int, block_bytes: int, left_bytes: int) -> int:
    """Go beyond the default share for a `--max-model-len` that the user asked for."""
    needed = math.ceil(model_len / block_size)
    if needed * block_bytes > left_bytes:
        fits = left_bytes // block_bytes * block_size
        raise ConfigError(
            f"--max-model-len {model_len} needs a KV cache of {format_bytes(needed * block_bytes)}, "
            f"{format_bytes(left_bytes)} are left after the weights: use --max-model-len {fits} or less"
        )
    return max(num_blocks, needed)


# --- sizes of the config ---------------------------------------------------------------------------------------------


def _encoder_shape(encoder: EncoderConfig, model_dir: Path) -> ModelShape:
    return ModelShape(
        num_layers=encoder.num_layers,
        num_heads=encoder.num_heads,
        num_kv_heads=encoder.num_heads,
        head_dim=encoder.head_dim,
        hidden_size=encoder.hidden_size,
        intermediate_size=encoder.intermediate_size,
        vocab_size=encoder.vocab_size,
        max_model_len=encoder.max_model_len,
        num_parameters=_num_parameters(model_dir),
    )


def _num_parameters(model_dir: Path) -> int:
    tensors = stored_tensors(model_dir).values()
    return sum(math.prod(tensor.shape) for tensor in tensors if tensor.dtype in _FLOAT_DTYPES)


def _size(values: ConfigValues, *names: str) -> int:
    """The first of these keys that the config has."""
    size = _optional_size(values, *names)
    if not size:
        raise ConfigError(f"config.json lacks {names[0]}: not a decoder-only language model that this server knows")
    return size


def _num_kv_heads(values: ConfigValues) -> int:
    """0 where the config does not say, and each head has its own keys and values."""
    if not values.is_null("multi_query") and values.boolean("multi_query"):
        return 1
    return _optional_size(values, "num_key_value_heads", "num_kv_heads")


def _optional_size(values: ConfigValues, *names: str) -> int:
    """The same, or 0 where the config has none of them or null."""
    return next((values.integer(name) for name in names if not values.is_null(name)), 0)
