"""The tensors of a LoRA adapter, fused as the decoder's matrices are.

Where an adapter changes several parts of a fused matrix, their As lie one above the other and their Bs in blocks on the
diagonal. Invariant: `expand · shrink` is the sum of the scaled B · A of the parts, in their rows.
Next: `torch_lora.py`, `native_lora.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from safetensors import SafetensorError, safe_open

from engine_core.model.lora.adapter_files import AdaptedModule, AdapterFiles
from engine_core.model.lora.targets import LinearName, num_rows_of
from ipc.errors import ConfigError


@dataclass(frozen=True, slots=True, eq=False)
class LowRank:
    """What an adapter adds to one fused matrix of one layer."""

    shrink: torch.Tensor
    """`[rank, inputs]`: A."""
    expand: torch.Tensor
    """`[outputs, rank]`: B with its scale."""


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """A whole adapter."""

    name: str
    layers: tuple[Mapping[LinearName, LowRank], ...]
    """Of each layer, the matrices that it changes."""

    def in_float32(self) -> "Adapter":
        """The same adapter, in fp32."""
        layers = (
            {name: LowRank(part.shrink.float(), part.expand.float()) for name, part in layer.items()}
            for layer in self.layers
        )
        return Adapter(self.name, tuple(layers))


def load_adapter(files: AdapterFiles, dtype: torch.dtype, device: torch.device) -> Adapter:
    """Read an adapter; raises `ConfigError` where the file cannot be read, or holds what is no number."""
    try:
        with safe_open(files.weights_file, framework="pt") as file:
            tensors = {name: file.get_tensor(name).float() for module in files.modules for name in module.tensor_names}
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"--lora {files.name}: cannot load {files.weights_file}: {error}") from error
    layers: tuple[dict[LinearName, LowRank], ...] = tuple({} for _ in range(files.config.num_layers))
    for (layer, linear), rank in files.ranks.items():
        parts = [module for module in files.modules if (module.layer, module.target.linear) == (layer, linear)]
        fused = _fused(parts, rank, num_rows_of(files.config)[linear], tensors)
        layers[layer][linear] = part = LowRank(*(matrix.to(device=device, dtype=dtype) for matrix in fused))
        if not (part.shrink.isfinite().all() and part.expand.isfinite().all()):
            raise ConfigError(f"--lora {files.name}: {linear} of layer {layer} has values that are not finite")
    return Adapter(files.name, layers)


def _fused(
    parts: list[AdaptedModule], rank: int, num_rows: int, tensors: Mapping[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """A `[rank, inputs]` and B `[num_rows, rank]` in fp32; what is not of a part is zero."""
    shrink, expand, first = torch.zeros(rank, parts[0].target.num_inputs), torch.zeros(num_rows, rank), 0
    for part in parts:
        target, end = part.target, first + part.rank
        name_of_a, name_of_b = part.tensor_names
        shrink[first:end] = tensors[name_of_a]
        expand[target.first_row : target.first_row + target.num_rows, first:end] = tensors[name_of_b] * part.scale
        first = end
    return shrink, expand
