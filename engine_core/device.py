"""Which device, which precision and how much memory there is, found out without importing torch where that is possible.

Called by `memory_plan.plan_model` only, so that `fast-inference plan` and a starting core decide alike. Importing torch
takes a second: it is asked only where the files of a GPU driver are there.
Next: `memory_plan.py` divides the memory.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engine_core.cgroups import cgroup_folders
from ipc.errors import ConfigError

DeviceType = Literal["cpu", "cuda"]
DtypeName = Literal["float32", "bfloat16"]

DTYPE_BYTES: dict[DtypeName, int] = {"float32": 4, "bfloat16": 2}
_GPU_DRIVER_FILES = ("nvidiactl", "nvmap", "dxg", "kfd")
"""Of NVIDIA, of its Jetson, of WSL and of AMD; torch offers all of them as `cuda`."""
_BF16_FLAGS = ({"avx512bw", "avx512vl", "avx512dq"}, {"avx_vnni_int8", "avx_ne_convert"}, {"bf16"})
"""CPU flags with any of which oneDNN computes in bf16: AVX-512, AVX2-VNNI-2, Arm."""

_MEMORY_FILES = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes"),
    2: ("memory.max", "memory.current"),
}
"""Limit and usage, by the version of the cgroup."""


@dataclass(frozen=True, slots=True)
class MachineShare:
    """What one of several cores may take of this machine, decided before the first of them took any."""

    num_cores: int = 1
    """That share the machine."""
    memory_bytes: int | None = None
    """Most of the machine's own memory that this core plans with; None: what there is."""

    @property
    def text(self) -> str:
        """What of a machine's memory it is, for people."""
        return "available" if self.memory_bytes is None else f"for each of {self.num_cores} cores"


WHOLE_MACHINE = MachineShare()


def resolve_device(asked: Literal["auto", "cpu", "cuda"], dev: Path = Path("/dev")) -> DeviceType:
    """The device for a `--device`.

    Raises:
        ConfigError: cuda was asked for and torch finds none.
    """
    if asked == "cpu":
        return "cpu"
    if has_gpu_driver(dev):
        import torch

        if torch.cuda.is_available():
            return "cuda"
    if asked == "cuda":
        raise ConfigError("--device cuda: torch finds no CUDA device (use --device cpu)")
    return "cpu"


def has_gpu_driver(dev: Path = Path("/dev")) -> bool:
    """True where the files of a GPU's driver are."""
    return any((dev / name).exists() for name in _GPU_DRIVER_FILES)


def resolve_dtype(
    asked: Literal["auto", "float32", "bfloat16"], device: DeviceType, proc: Path = Path("/proc")
) -> DtypeName:
    """The precision for a `--dtype`; on a CPU without bf16 arithmetic, bf16 is several times slower than fp32."""
    if asked != "auto":
        return asked
    return "bfloat16" if device == "cuda" or has_bf16_arithmetic(proc) else "float32"


def has_bf16_arithmetic(proc: Path = Path("/proc")) -> bool:
    """True where oneDNN, and with it torch, has bf16 kernels for this CPU."""
    lines = (proc / "cpuinfo").read_text().splitlines()
    found = next((line for line in lines if line.split(":")[0].strip() in ("flags", "Features")), "")
    flags = set(found.partition(":")[2].split())
    return any(needed <= flags for needed in _BF16_FLAGS)


def available_bytes(device: DeviceType, share: MachineShare = WHOLE_MACHINE) -> int:
    """Memory that this process can still take on a device; of the machine's own at most its share."""
    if device == "cpu":
        available = available_memory_bytes()
        return available if share.memory_bytes is None else min(available, share.memory_bytes)
    import torch

    free_bytes, _ = torch.cuda.mem_get_info()
    return int(free_bytes)


def available_memory_bytes(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Memory that this process can still take: the least of MemAvailable and what each cgroup above it leaves."""
    meminfo = (proc / "meminfo").read_text()
    available = next(int(line.split()[1]) for line in meminfo.splitlines() if line.startswith("MemAvailable:")) * 1024
    for folder, version in cgroup_folders("memory", proc, cgroup):
        limit_name, usage_name = _MEMORY_FILES[version]
        limit, usage = _read_number(folder / limit_name), _read_number(folder / usage_name)
        if limit is not None and usage is not None:
            reclaimable = _read_stat(folder / "memory.stat", ("total_inactive_file", "inactive_file"))
            available = min(available, max(limit - max(usage - reclaimable, 0), 0))
    return available


def _read_number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # not there, or "max"
        return None


def _read_stat(path: Path, names: tuple[str, ...]) -> int:
    try:
        values = dict(line.split(maxsplit=1) for line in path.read_text().splitlines())
    except (OSError, ValueError):
        return 0
    return next((int(values[name]) for name in names if name in values), 0)
