"""The settings of cores on a Ray cluster: one more section of `ipc/config.py`, which says how sections are used."""

import re
from typing import Literal, Self

from pydantic import Field, model_validator

from ipc.config_section import Section
from ipc.errors import ConfigError

MIN_RAY_AMOUNT = 0.0001
"""Ray counts in units of this."""
_FLEET_NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}")


class RayConfig(Section):
    """Cores on the machines of a Ray cluster."""

    executor: Literal["local", "ray"] = Field(
        "local",
        description="who runs the engine cores: 'local', this machine; 'ray', actors of a Ray cluster (needs "
        "fast-inference[ray])",
    )
    ray_address: str | None = Field(
        None,
        description="HOST:PORT of the Ray head; where not set, RAY_ADDRESS, a Ray that runs here, or one of our own",
    )
    ray_fleet: str | None = Field(
        None, description="name of the cores that several servers share; where not set, that of the model"
    )
    ray_cpus_per_core: float | None = Field(
        None,
        ge=MIN_RAY_AMOUNT,
        allow_inf_nan=False,
        description="CPUs that Ray reserves for each core; where not set, --threads, or for cores without a GPU their "
        "share of a node",
    )
    scale_up_queued_tokens: int = Field(
        4096, ge=1, description="one more core when more prompt tokens than this wait, per core (--cores MIN:MAX)"
    )
    scale_down_idle: float = Field(
        60.0, ge=1, description="seconds for which one core less would do before there is one less"
    )

    @model_validator(mode="after")
    def _has_a_plain_name(self) -> Self:
        """Raises ConfigError, which pydantic passes on as it is."""
        if self.ray_fleet is not None and not _FLEET_NAME.fullmatch(self.ray_fleet):
            raise ConfigError(f"--ray-fleet: {self.ray_fleet[:80]!r} must be letters, digits, '.', '_' and '-'")
        return self
