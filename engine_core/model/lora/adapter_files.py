"""The files of LoRA adapters, checked against the model before anything of either is loaded.

`open_adapters` is asked by the core at its start, by the memory plan and by the loader. Only headers are read here, so
it needs no torch. Invariant: each module of an `AdapterFiles` has both tensors, in the shapes that the model wants.
Next: `adapter_weights.py` reads the tensors.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from engine_core.config_values import read_json_object
from engine_core.model.decoder.config import DecoderConfig
from engine_core.model.lora.adapter_config import CONFIG_FILE, LoraConfig, is_end_of
from engine_core.model.lora.targets import LinearName, Target, num_rows_of, targets_of
from engine_core.weight_files import FLOAT_DTYPES, StoredTensor, listed, tensors_of_file
from ipc.config import FAKE_MODEL, ModelConfig
from ipc.errors import ConfigError

WEIGHTS_FILE = "adapter_model.safetensors"
RANK_MULTIPLE = 4
"""The ranks of the parts of a matrix are added up, and their sum is padded to a multiple of this."""
_PANEL = 32
"""The CPU kernels pad A to a multiple of so many rows."""
_TENSOR_NAME = re.compile(r"base_model\.model\.(model\.layers\.(\d{1,5})\.([\w.]+))\.lora_([AB])\.weight")
_FINGERPRINT_BYTES = 32
_READ_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class AdaptedModule:
    """What an adapter has for one module of one layer."""

    layer: int
    target: Target
    rank: int
    scale: float
    tensor_names: tuple[str, str]
    """Of A `[rank, inputs]` and B `[outputs, rank]`."""


@dataclass(frozen=True, slots=True)
class AdapterFiles:
    """An adapter on disk."""

    name: str
    folder: Path
    config: DecoderConfig
    """Of the model that it is for."""
    modules: tuple[AdaptedModule, ...]

    @property
    def weights_file(self) -> Path:
        """With the tensors."""
        return self.folder / WEIGHTS_FILE

    @property
    def ranks(self) -> Mapping[tuple[int, LinearName], int]:
        """The padded sum of the ranks of the parts, by layer and fused matrix."""
        sums: dict[tuple[int, LinearName], int] = {}
        for module in self.modules:
            key = module.layer, module.target.linear
            sums[key] = sums.get(key, 0) + module.rank
        return {key: -(-rank // RANK_MULTIPLE) * RANK_MULTIPLE for key, rank in sums.items()}

    @property
    def num_values(self) -> int:
        """Numbers that are kept of it, at most, once it is fused and packed."""
        inputs = {target.linear: target.num_inputs for target in targets_of(self.config).values()}
        outputs = num_rows_of(self.config)
        return sum(
            -(-rank // _PANEL) * _PANEL * inputs[linear] + rank * outputs[linear]
            for (_, linear), rank in self.ranks.items()
        )

    def fingerprint(self) -> bytes:
        """Equal for equal files; raises `ConfigError` where one cannot be read."""
        digest = hashlib.blake2b(digest_size=_FINGERPRINT_BYTES)
        for path in (self.folder / CONFIG_FILE, self.weights_file):
            try:
                digest.update(path.stat().st_size.to_bytes(8, "little"))
                with path.open("rb") as file:
                    while chunk := file.read(_READ_BYTES):
                        digest.update(chunk)
            except OSError as error:
                raise ConfigError(f"--lora {self.name}: cannot read {path}: {error.strerror}") from error
        return digest.digest()


def open_adapters(model: ModelConfig) -> tuple[AdapterFiles, ...]:
    """The adapters of these settings, in their order; `model.model` is a folder, where there are any.

    Raises:
        ConfigError: one is not for this model, is damaged, or is of a kind that is not computed here.
    """
    if not model.adapters or model.model == FAKE_MODEL:
        return ()
    config = DecoderConfig.try_from(read_json_object(Path(model.model) / "config.json"))
    if config is None or model.model_impl == "transformers":
        raise ConfigError("--lora: only for models with a native implementation")
    return tuple(_open(name, folder, config) for name, folder in model.adapters.items())


def _open(name: str, folder: Path, config: DecoderConfig) -> AdapterFiles:
    try:
        if not (folder / WEIGHTS_FILE).is_file():
            raise ConfigError(f"{folder} has no {WEIGHTS_FILE} (other formats are not read)")
        lora = LoraConfig.read(folder)
        modules = _modules(lora, tensors_of_file(folder / WEIGHTS_FILE), config)
    except ConfigError as error:
        raise ConfigError(f"--lora {name}: {error.message}") from error
    return AdapterFiles(name, folder, config, modules)


def _modules(lora: LoraConfig, stored: Mapping[str, StoredTensor], config: DecoderConfig) -> tuple[AdaptedModule, ...]:
    targets, unknown = targets_of(config), []
    found: dict[str, tuple[int, Target]] = {}
    for tensor_name, tensor in stored.items():
        match = _TENSOR_NAME.fullmatch(tensor_name)
        target = targets.get(match[3]) if match else None
        if match is None or target is None or int(match[2]) >= config.num_layers or tensor.dtype not in FLOAT_DTYPES:
            unknown.append(tensor_name)
        else:
            found[match[1]] = int(match[2]), target
    if unknown:
        raise ConfigError(f"this model has no use for {listed(sorted(unknown))}")
    unchanged = [name for name in lora.target_modules if not any(is_end_of(name, module) for module in found)]
    if unchanged or not found:
        raise ConfigError(f"{WEIGHTS_FILE} has no tensors for {listed(unchanged) or 'any module'}")
    return tuple(_module(lora, module, *found[module], stored) for module in sorted(found))


def _module(
    lora: LoraConfig, module: str, layer: int, target: Target, stored: Mapping[str, StoredTensor]
) -> AdaptedModule:
    rank = lora.rank_of(module)
    names = tuple(f"base_model.model.{module}.lora_{part}.weight" for part in "AB")
    for name, shape in zip(names, ((rank, target.num_inputs), (target.num_rows, rank)), strict=True):
        if name not in stored:
            raise ConfigError(f"{name} is missing")
        if stored[name].shape != shape:
            raise ConfigError(f"{name} has the shape {list(stored[name].shape)} instead of {list(shape)}")
    return AdaptedModule(layer, target, rank, lora.scale_of(module), (names[0], names[1]))
