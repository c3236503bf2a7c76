"""What `adapter_config.json` says of a LoRA adapter, as PEFT writes it.

Invariant: what is accepted is computed as PEFT does; a kind of adapter that is not computed here is a `ConfigError`
that names the key. Which modules an adapter changes is told by its tensors. Next: `adapter_files.py`.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine_core.config_values import ConfigValues, read_json_object
from ipc.errors import ConfigError

CONFIG_FILE = "adapter_config.json"
MAX_RANK = 1024

_ORDINARY: Mapping[str, tuple[Any, ...]] = {
    "bias": ("none",),
    "modules_to_save": (None, []),
    "use_dora": (False, None),
    "lora_bias": (False, None),
    "fan_in_fan_out": (False, None),
    "use_qalora": (False, None),
    "layer_replication": (None, []),
    "alora_invocation_tokens": (None, []),
    "trainable_token_indices": (None, [], {}),
    "target_parameters": (None, []),
    "megatron_config": (None,),
    "init_lora_weights": (True, False, None, "gaussian", "eva", "orthogonal"),
}
"""Values that these keys must have: all others would compute something else, or change the model itself."""
_MODULE_NAME = re.compile(r"\^?[\w.]+")


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """Ranks and scales."""

    rank: int
    alpha: float
    uses_rslora: bool
    """The scale is alpha / √rank instead of alpha / rank."""
    ranks: Mapping[str, int]
    """Of modules that have another one, by the end of their name, or by `^` and their whole name."""
    alphas: Mapping[str, float]
    """The same of alphas."""
    target_modules: tuple[str, ...]
    """Ends of names of modules; empty where the file has a pattern instead."""

    @classmethod
    def read(cls, folder: Path) -> "LoraConfig":
        """Read the file in an adapter's folder; raises `ConfigError`."""
        values = ConfigValues(read_json_object(folder / CONFIG_FILE), where=CONFIG_FILE)
        if values.text("peft_type") != "LORA":
            raise ConfigError(f"{CONFIG_FILE}: peft_type must be LORA, not {values['peft_type'][:40]}")
        for name, ordinary in _ORDINARY.items():
            values.refuse_other_than(name, ordinary)
        ranks, alphas = _by_module(values, "rank_pattern"), _by_module(values, "alpha_pattern")
        is_pattern = values.is_null("target_modules") or isinstance(values["target_modules"], str)
        return cls(
            rank=values.integer("r", maximum=MAX_RANK),
            alpha=values.number("lora_alpha"),
            uses_rslora=not values.is_null("use_rslora") and values.boolean("use_rslora"),
            ranks={name: ranks.integer(name, maximum=MAX_RANK) for name in ranks},
            alphas={name: alphas.number(name) for name in alphas},
            target_modules=() if is_pattern else values.texts("target_modules"),
        )

    def rank_of(self, module: str) -> int:
        """Of a module, by its whole name."""
        return next((rank for name, rank in self.ranks.items() if _names(name, module)), self.rank)

    def scale_of(self, module: str) -> float:
        """What B · A is multiplied with."""
        alpha = next((alpha for name, alpha in self.alphas.items() if _names(name, module)), self.alpha)
        rank = self.rank_of(module)
        return alpha / (math.sqrt(rank) if self.uses_rslora else rank)


def is_end_of(name: str, module: str) -> bool:
    """Whether a module goes by this name in `target_modules`."""
    return module == name or module.endswith("." + name)


def _by_module(values: ConfigValues, key: str) -> ConfigValues:
    """The values of modules with a name of their own; regular expressions are refused."""
    given = values.get(key) or {}
    by_module = ConfigValues(given, where=f"{CONFIG_FILE}: {key}")
    plain = {name.replace("\\.", "."): value for name, value in by_module.items()}
    for name in plain:
        if not _MODULE_NAME.fullmatch(name):
            raise ConfigError(f"{CONFIG_FILE}: {key} has a pattern where only names of modules are read: {name[:40]!r}")
    return ConfigValues(plain, where=f"{CONFIG_FILE}: {key}")


def _names(name: str, module: str) -> bool:
    return module == name[1:] if name.startswith("^") else is_end_of(name, module)
