"""What all launchers of one fleet agree on: the settings of its cores, and how many there are.

Made by each agent from its own `config.json`; the first one creates the fleet with it, and the others join only where
theirs is the same. Invariant: it holds no secret, nor anything that concerns one launcher or one machine alone.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fast_inference.flags import flag_name
from fast_inference.wheel_models import known_name
from ipc.config import (
    FAKE_MODEL,
    CacheConfig,
    FakeModelConfig,
    ModelConfig,
    SchedulerConfig,
    TracingConfig,
    load_section,
)
from ipc.errors import ConfigError
from ipc.ray_config import RayConfig

NAMESPACE = "fast-inference"
"""Of all our actors."""
_SHARED = (ModelConfig, CacheConfig, SchedulerConfig, FakeModelConfig, TracingConfig)
_OF_LAUNCHER = ("cores", "hang_timeout", "drain_timeout")
_OF_RAY = ("ray_cpus_per_core", "scale_up_queued_tokens", "scale_down_idle")
_ONLY_TOLD = ("served_model_name", "log_level", "log_format")
"""Used by cores too, but launchers may differ in them."""


def paths_anywhere(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What of these settings names files, for the same places on each node, wherever Ray starts its workers."""
    model, tokenizer = settings["model"], settings["tokenizer"]
    pairs = [item.partition("=") for item in settings["lora"]]
    return {
        "model": model if model == FAKE_MODEL or known_name(model) is not None else _anywhere(model),
        "tokenizer": None if tokenizer is None else _anywhere(tokenizer),
        "lora": [f"{name}={_anywhere(path)}" for name, _, path in pairs],
    }


def _anywhere(path: str) -> str:
    found = Path(path).expanduser()
    return str(found.absolute()) if found.exists() else path


@dataclass(frozen=True, slots=True)
class FleetSpec:
    """One fleet."""

    name: str
    settings: Mapping[str, Any]
    """By field name, of those in which launchers must not differ."""
    told: Mapping[str, Any]
    """Of those in which they may: cores take them from the launcher that came first."""

    @classmethod
    def read(cls, config_file: Path) -> "FleetSpec":
        """From the settings that the launcher resolved; raises `ConfigError` where they cannot be read."""
        try:
            values: dict[str, Any] = json.loads(config_file.read_text())
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot read {config_file}: {error}") from error
        names = [name for section in _SHARED for name in section.model_fields]
        settings = {name: values[name] for name in (*names, *_OF_LAUNCHER, *_OF_RAY)}
        settings |= paths_anywhere(values)
        ray = load_section(config_file, RayConfig)
        name = ray.ray_fleet or re.sub(r"[^A-Za-z0-9_.-]+", "-", values["served_model_name"][0])
        return cls(name, settings, {name: values[name] for name in _ONLY_TOLD})

    @property
    def directory_name(self) -> str:
        """Of the actor that knows this fleet."""
        return f"fast-inference-cores:{self.name}"

    def core_actor_name(self, core: str) -> str:
        """Of the actor that runs one core."""
        return f"{self._core_prefix}{core}"

    def core_of(self, actor_name: str) -> str | None:
        """The other way round; None for an actor that runs no core of this fleet."""
        prefix = self._core_prefix
        return actor_name.removeprefix(prefix) if actor_name.startswith(prefix) else None

    @property
    def _core_prefix(self) -> str:
        return f"fast-inference-core:{self.name}:"

    def flags_that_differ(self, other: "FleetSpec") -> list[str]:
        """Names of the flags in which two launchers of this fleet contradict each other."""
        return [flag_name(name) for name in sorted(self.settings) if self.settings[name] != other.settings.get(name)]
