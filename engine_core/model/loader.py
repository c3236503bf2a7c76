"""Builds a model runner from the settings: device, dtype, memory plan, tokenizer, network, cache, check.

Called once by `engine_core/core_server.py`. Everything that can be wrong with a model folder or with the flags is a
`ConfigError` of one line, found as early as possible: what would be computed wrongly is refused here, not served.
Only local files are read and no code of a model repository is ever run.
Next: `engine_core/memory_plan.py` (device, precision and sizes), `model_runner.py`.
"""

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from engine_core.config_values import read_json_object
from engine_core.device import WHOLE_MACHINE, DeviceType, DtypeName, MachineShare
from engine_core.memory_plan import MemoryPlan, plan_model
from engine_core.model.attention import UnsupportedAttentionError, has_triton
from engine_core.model.decoder.config import DecoderConfig
from engine_core.model.decoder.families import MINIMAL_LLM
from engine_core.model.decoder.load import load_decoder
from engine_core.model.encoder.load import load_encoder_runner, refuse_settings
from engine_core.model.encoder.runner import EncoderRunner
from engine_core.model.kernels.bindings import load_library
from engine_core.model.kernels.build import KernelsUnavailableError, is_built, kernel_library
from engine_core.model.kv_tensors import allocate_kv_tensors
from engine_core.model.lora.adapter_files import AdapterFiles, open_adapters
from engine_core.model.lora.adapter_weights import load_adapter
from engine_core.model.model_runner import TorchModelRunner
from engine_core.model.network import Network
from engine_core.model.pooling import PoolingConfig
from engine_core.model.sampling.native_token_picker import NativeTokenPicker
from engine_core.model.sampling.token_picker import TORCH_PICKER, TokenPicker
from engine_core.outputs import ModelInfo
from engine_core.sentence_files import read_sentence_files
from engine_core.tokenizer_export import export_tokenizer
from engine_core.tokenizer_facts import check_vocabulary, eos_token_id
from ipc.config import CacheConfig, ModelConfig, SchedulerConfig
from ipc.errors import ConfigError
from ipc.tokenizer_files import TOKENIZER_FILE

logger = logging.getLogger(__name__)

_TORCH_DTYPES: dict[DtypeName, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load_model_runner(
    model: ModelConfig,
    cache: CacheConfig,
    scheduler: SchedulerConfig,
    report: Callable[[str], None],
    share: MachineShare = WHOLE_MACHINE,
) -> TorchModelRunner | EncoderRunner:
    """Load a model folder and make it ready to run steps.

    Args:
        model: which model, on what, in which precision; `model.model` is a folder.
        cache: size of the KV cache.
        scheduler: limits of a step, for the memory plan.
        report: told each stage, for people.
        share: what of the machine it may take.

    Raises:
        ConfigError: the model cannot be run with these settings.
    """
    report("preparing")
    model_dir = Path(model.model)
    model_plan = plan_model(model, cache, scheduler, share)
    torch.set_num_threads(model_plan.num_threads)  # before the first operation
    shape, plan = model_plan.shape, model_plan.memory
    device, dtype = _torch_device(model_plan.device), _TORCH_DTYPES[model_plan.dtype]
    logger.info("%s, %s, threads: %d; %s", device.type, _name(dtype), model_plan.num_threads, plan.describe())
    for note in plan.notes:
        logger.warning("%s", note)

    sentences = read_sentence_files(model_dir)
    pooling = PoolingConfig(sentences.resolve_pooling(model.pooling), sentences.is_normalized)
    if sentences.default_prompt:
        logger.warning("a prompt (%r) belongs before each text: callers must write it", sentences.default_prompt[:60])
    adapters = open_adapters(model)
    facts = _Facts(model, model_dir, plan, dtype, device, pooling, adapters)
    stage = f"loading weights ({_name(dtype)}, {device.type})"
    encoder = model_plan.encoder
    if encoder is not None:
        report(stage)
        refuse_settings(model)
        info = facts.info(encoder.vocab_size, encoder.hidden_size, is_encoder=True)
        return load_encoder_runner(model_dir, encoder, info, pooling, dtype, device)
    if device.type == "cpu" and model.cpu_kernels:
        _compile_kernels(report)
    report(stage)
    network = _load_network(model, model_dir, dtype, device, plan.max_model_len, adapters)
    info = facts.info(network.vocab_size, network.hidden_size)
    report("checking the model")
    kv_tensors = allocate_kv_tensors(
        shape, num_blocks=plan.num_blocks, block_size=plan.block_size, dtype=dtype, device=device
    )
    try:
        with torch.inference_mode():
            network.check(kv_tensors)
    except (UnsupportedAttentionError, RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise ConfigError(f"cannot run models like {model.model}: {error_line(error)}") from error
    picker = token_picker(device, use_kernels=model.cpu_kernels)
    graphs = None
    if has_triton(device):
        from engine_core.model.cuda.decode_graphs import try_capture
        from engine_core.model.cuda.warm_up import warm_up

        report("compiling kernels")
        warm_up(network, kv_tensors, picker, plan.max_model_len)
        if not model.enforce_eager:
            report("capturing CUDA graphs")
            graphs = try_capture(network, kv_tensors, scheduler.max_num_seqs, plan.max_model_len)
    return TorchModelRunner(network, kv_tensors, info, pooling, picker, graphs)


# --- device, precision -------------------------------------------------------------------------------------------


def _torch_device(device: DeviceType) -> torch.device:
    return torch.device("cuda", torch.cuda.current_device()) if device == "cuda" else torch.device("cpu")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _compile_kernels(report: Callable[[str], None]) -> None:
    """Compile them now, where that was not done before, so that people see what takes so long."""
    try:
        if not is_built():
            report("compiling the CPU kernels (once)")
            kernel_library()
    except KernelsUnavailableError:
        return  # whoever cannot do without them says why


# --- the model -----------------------------------------------------------------------------------------------------


def _load_network(
    model: ModelConfig,
    model_dir: Path,
    dtype: torch.dtype,
    device: torch.device,
    max_model_len: int,
    adapters: Sequence[AdapterFiles],
) -> Network:
    """A network of our own where one fits, else transformers'; `model.model_impl` may insist on either."""
    config = DecoderConfig.try_from(read_json_object(model_dir / "config.json"))
    if config is not None and model.model_impl != "transformers":
        return load_decoder(
            *(config, model_dir, dtype, device, max_model_len),
            quantization=model.quantization,
            use_kernels=model.cpu_kernels,
            adapters=[load_adapter(files, dtype, device) for files in adapters],
        )
    if model.model_impl == "native":
        raise ConfigError(f"no native implementation fits {model_dir} (use --model-impl auto)")
    if model.quantization != "none":
        raise ConfigError(f"--quantization {model.quantization}: only for models with a native implementation")
    from engine_core.model.transformers_network import TransformersNetwork

    return TransformersNetwork.load(model_dir, dtype, device, max_model_len)


def _tokenizer_dir(model: ModelConfig, model_dir: Path, vocab_size: int) -> Path:
    """A MinimalLLM comes without one, so it must fit; others may name tokens that their model does not use."""
    tokenizer_dir = export_tokenizer(model_dir, model.tokenizer)
    if read_json_object(model_dir / "config.json").get("architectures") == [MINIMAL_LLM]:
        check_vocabulary(tokenizer_dir, vocab_size)
    return tokenizer_dir


def token_picker(device: torch.device, *, use_kernels: bool) -> TokenPicker:
    """The kernel that samples, where it can be compiled, else torch."""
    if has_triton(device):
        from engine_core.model.cuda.token_picker import TritonTokenPicker

        return TritonTokenPicker()
    if device.type != "cpu" or not use_kernels:
        return TORCH_PICKER
    try:
        return NativeTokenPicker(load_library(kernel_library()))
    except KernelsUnavailableError as error:
        logger.info("sampling in plain torch: %s", error)
        return TORCH_PICKER


# --- facts -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Facts:
    """What is known of a model before its weights are read."""

    model: ModelConfig
    model_dir: Path
    plan: MemoryPlan
    dtype: torch.dtype
    device: torch.device
    pooling: PoolingConfig
    adapters: Sequence[AdapterFiles]

    def info(self, vocab_size: int, hidden_size: int, *, is_encoder: bool = False) -> ModelInfo:
        """For the rest of the core; the tokenizer is exported now."""
        tokenizer_dir = _tokenizer_dir(self.model, self.model_dir, vocab_size)
        fingerprints = {files.name: files.fingerprint() for files in self.adapters}
        precision = f"{_name(self.dtype)} {self.model.quantization}"
        return ModelInfo(
            model_id=self.model.model,
            fingerprint=_fingerprint(self.model_dir, tokenizer_dir, precision, fingerprints),
            tokenizer_dir=str(tokenizer_dir.absolute()),
            vocab_size=vocab_size,
            eos_token_ids=_eos_token_ids(self.model_dir, tokenizer_dir),
            max_model_len=self.plan.max_model_len,
            num_blocks=self.plan.num_blocks,
            embedding_size=hidden_size,
            dtype=_name(self.dtype),
            device=self.device.type,
            pooling=self.pooling.kind,
            is_encoder=is_encoder,
            adapters=fingerprints,
        )


def _eos_token_ids(model_dir: Path, tokenizer_dir: Path) -> tuple[int, ...]:
    """From generation_config.json, else from config.json; either may be one id or several; else the tokenizer's."""
    generation_file = model_dir / "generation_config.json"
    config = read_json_object(model_dir / "config.json")
    ids = read_json_object(generation_file).get("eos_token_id") if generation_file.is_file() else None
    if ids is None:
        ids = (config.get("text_config") or config).get("eos_token_id")
    if ids is None:
        ids = eos_token_id(tokenizer_dir)
    return () if ids is None else eos_token_ids_of(ids, str(model_dir))


def eos_token_ids_of(ids: object, owner: str) -> tuple[int, ...]:
    """From one id or several; raises `ConfigError`, with the name of the owner, where it is neither."""
    listed = ids if isinstance(ids, list) else [ids]
    if not all(type(token_id) is int for token_id in listed):
        raise ConfigError(f"{owner}: eos_token_id must be a token id or a list of them, not {str(ids)[:40]}")
    return tuple(listed)


def _fingerprint(model_dir: Path, tokenizer_dir: Path, precision: str, adapters: Mapping[str, bytes]) -> str:
    """Changes when other numbers or other tokens would come out: two cores with equal ones may resume each other."""
    digest = hashlib.sha256(precision.encode())
    for name in ("config.json", "generation_config.json"):
        path = model_dir / name
        digest.update(path.read_bytes() if path.is_file() else b"-")
    for path in (*sorted(model_dir.glob("*.safetensors")), tokenizer_dir / TOKENIZER_FILE):
        stat = path.stat()
        digest.update(f"{path.name}:{stat.st_size}:{stat.st_mtime_ns}\n".encode())
    for adapter, fingerprint in sorted(adapters.items()):
        digest.update(adapter.encode() + b"\0" + fingerprint)
    return digest.hexdigest()[:32]


def error_line(error: BaseException) -> str:
    """The first line of an error, with its type."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__
