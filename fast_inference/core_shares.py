"""What each of several cores on this machine gets of it: a GPU, or CPUs and memory; decided before any one starts.

Called by `launcher.py`, and by `fast-inference plan`. The shares are equal and stay the same while the server runs, so
that a core that is started again plans the same KV cache, whatever the others have taken by then.
Invariant: one core alone has no share: it sees the machine as it is. Next: `core_fleet.py`.
"""

import math
import os
import subprocess
import sys
from dataclasses import dataclass

from engine_core.cpus import cpu_quota, format_cpus
from engine_core.device import MachineShare, available_memory_bytes, has_gpu_driver
from fast_inference.cpu_sets import allowed_cpus, divide_cpus
from fast_inference.settings import Settings
from ipc.config import FAKE_MODEL
from ipc.errors import ConfigError

_VISIBLE_DEVICES = "CUDA_VISIBLE_DEVICES"
_COUNT_DEVICES = "import torch; print(torch.cuda.device_count())"


@dataclass(frozen=True, slots=True)
class CoreShare:
    """What one core gets."""

    num_cores: int = 1
    """That there are."""
    cpus: tuple[int, ...] = ()
    """Where it computes; empty: wherever the launcher may."""
    memory_bytes: int | None = None
    """What it may take of the machine's memory; None: what there is."""
    cuda_device: str | None = None
    """As `CUDA_VISIBLE_DEVICES` names it; None: the launcher's own."""

    @property
    def of_machine(self) -> MachineShare:
        """The part of it that a memory plan is made with."""
        return MachineShare(self.num_cores, self.memory_bytes)

    @property
    def arguments(self) -> list[str]:
        """For `python -m engine_core`."""
        arguments = ["--cores", str(self.num_cores)] if self.num_cores > 1 else []
        if self.cpus:
            arguments += ["--cpus", format_cpus(self.cpus)]
        if self.memory_bytes is not None:
            arguments += ["--memory-bytes", str(self.memory_bytes)]
        return arguments

    @property
    def environment(self) -> dict[str, str]:
        """What differs from the launcher's."""
        return {} if self.cuda_device is None else {_VISIBLE_DEVICES: self.cuda_device}


ONLY_CORE_SHARE = CoreShare()


def divide_machine(settings: Settings) -> list[CoreShare]:
    """A share for each core.

    Raises:
        ConfigError: there are more cores than GPUs or CPUs.
    """
    num_cores = settings.num_cores
    if num_cores == 1:
        return [ONLY_CORE_SHARE]
    if settings.model == FAKE_MODEL:  # computes nothing
        return [CoreShare(num_cores)] * num_cores
    devices = [] if settings.device == "cpu" or not has_gpu_driver() else _cuda_devices()
    if devices:
        if len(devices) < num_cores:
            raise ConfigError(f"--cores {num_cores}: torch finds {_number(len(devices), 'GPU')}, each for one core")
        return [CoreShare(num_cores, cuda_device=device) for device in devices[:num_cores]]
    if settings.device == "cuda":
        raise ConfigError("--device cuda: torch finds no CUDA device (use --device cpu)")
    cpus = allowed_cpus()
    num_usable = max(1, math.floor(min(len(cpus), cpu_quota())))
    if num_usable < num_cores:
        raise ConfigError(
            f"--cores {num_cores}: {_number(num_usable, 'CPU')} may be used here, and each core needs one of its own"
        )
    memory_bytes = available_memory_bytes() // num_cores
    return [CoreShare(num_cores, cpu_set, memory_bytes) for cpu_set in divide_cpus(cpus, num_cores)]


def _cuda_devices() -> list[str]:
    """The GPUs that torch sees, as `CUDA_VISIBLE_DEVICES` names them; asked in a process of its own, as torch is large.

    Raises:
        ConfigError: torch cannot be asked.
    """
    done = subprocess.run([sys.executable, "-P", "-c", _COUNT_DEVICES], capture_output=True, text=True, check=False)
    if done.returncode or not done.stdout.strip().isdecimal():
        raise ConfigError(f"cannot count the GPUs: {(done.stderr.strip().splitlines() or ['torch says nothing'])[-1]}")
    count = int(done.stdout)
    visible = [name.strip() for name in os.environ.get(_VISIBLE_DEVICES, "").split(",") if name.strip()]
    return visible[:count] if visible else [str(index) for index in range(count)]


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
