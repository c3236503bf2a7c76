"""The section of the settings for cores and their clients on different hosts: where cores listen, and where they are.

Read by the core for its tcp endpoint, and by the launcher of frontends whose cores are elsewhere. The keys themselves
are the business of `curve.py`. Next: `engine_core/core_socket.py`, `fast_inference/remote_fleet.py`.
"""

import re
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from ipc.config_section import Section
from ipc.errors import ConfigError

_TCP_ENDPOINT = re.compile(r"tcp://(\*|\w[\w.-]*|\[[0-9a-fA-F:]+\]):([1-9]\d{0,4})", re.ASCII)
_MAX_PORT = 65535


class EndpointConfig(Section):
    """Access to the engine core from other hosts."""

    core_endpoint: str | None = Field(
        None,
        description="tcp://ADDRESS:PORT where the engine core also takes clients of other hosts; needs --curve-dir; "
        "of several cores, the second one has the port after it, and so on",
    )
    curve_dir: Path | None = Field(
        None,
        description="folder of `fast-inference keys`: the core's key pair and public keys of those who may connect; "
        "with --connect, the core's public key and the key pair of this server",
    )

    connect: tuple[str, ...] = Field(
        (),
        description="tcp://HOST:PORT of an engine core on another host (its --core-endpoint), to be used instead of "
        "one of this server; needs --curve-dir",
    )
    curve_client: str = Field(
        "client", description="with --connect: whose keys in --curve-dir are those of this server"
    )

    @property
    def core_port(self) -> int:
        """Port of `core_endpoint`; 0 where there is none."""
        return int(self.core_endpoint.rpartition(":")[2]) if self.core_endpoint is not None else 0

    def endpoint_of(self, core_index: int) -> str:
        """That of one of several cores: the port of the first one, the port after it, and so on."""
        address, _, port = (self.core_endpoint or "").rpartition(":")
        return f"{address}:{int(port) + core_index}"

    @model_validator(mode="after")
    def _is_safe_for_the_network(self) -> Self:
        """Raises ConfigError, which pydantic passes on as it is."""
        for endpoint in self.connect:
            if not _TCP_ENDPOINT.fullmatch(endpoint) or "*" in endpoint:
                raise ConfigError(f"--connect: {endpoint!r} is not like tcp://HOST:PORT")
            if int(endpoint.rpartition(":")[2]) > _MAX_PORT:  # libzmq takes it, and never gets anywhere
                raise ConfigError(f"--connect: {endpoint!r} has no port up to {_MAX_PORT}")
        if len(set(self.connect)) < len(self.connect):
            raise ConfigError("--connect: the same core is there twice")
        if self.connect and self.core_endpoint is not None:
            raise ConfigError("--connect and --core-endpoint: cores are either elsewhere or here")
        if self.connect and self.curve_dir is None:
            raise ConfigError("--connect needs --curve-dir: cores hear nobody without a known key")
        if self.core_endpoint is not None and not _TCP_ENDPOINT.fullmatch(self.core_endpoint):
            raise ConfigError(f"--core-endpoint: {self.core_endpoint!r} is not like tcp://ADDRESS:PORT")
        if (self.core_endpoint is None and not self.connect) != (self.curve_dir is None):
            raise ConfigError("--core-endpoint and --curve-dir go together: nobody may connect without a known key")
        return self
