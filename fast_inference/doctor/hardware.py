"""Checks of the processors: what the kernels find in them, how many threads may compute, and whether there is a GPU.

Torch is imported only where a GPU's driver is, or where one is asked for.
"""

import math
import os
from pathlib import Path

from engine_core.cpus import available_cpus, cpu_quota
from engine_core.device import has_bf16_arithmetic, has_gpu_driver
from fast_inference.doctor.finding import Finding, Findings, Tell, fail, ok, warn
from fast_inference.settings import Settings

_PROC = Path("/proc")
_CGROUP = Path("/sys/fs/cgroup")
_BUSY_SHARE = 0.5
"""Of the CPUs that others keep busy, from which on a server is noticeably slower."""
_KERNEL_FEATURES = {"avx512f": "AVX-512", "avx512_vnni": "VNNI", "avx512_bf16": "BF16"}
"""CPU flags for which the kernels have a form of their own."""


def check_hardware(settings: Settings, tell: Tell, proc: Path = _PROC, cgroup: Path = _CGROUP) -> Findings:
    """CPU, threads, load and GPU."""
    yield _cpu(proc)
    yield _threads(settings, proc, cgroup)
    yield _load(proc, available_cpus(proc, cgroup))
    yield _gpu(settings, tell)


def _cpu(proc: Path) -> Finding:
    values = _cpuinfo(proc)
    flags = set((values.get("flags") or values.get("Features") or "").split())
    model = values.get("model name", "unknown model")
    bf16 = "bfloat16 by default" if has_bf16_arithmetic(proc) else "float32 by default: it has no bfloat16 arithmetic"
    if "avx512f" in flags:
        features = ", ".join(name for flag, name in _KERNEL_FEATURES.items() if flag in flags)
        return ok("CPU", f"{model}: {features}; {bf16}")
    if "avx2" in flags or "asimd" in flags:
        return ok("CPU", f"{model}: {'AVX2' if 'avx2' in flags else 'NEON'}; {bf16}")
    fix = "expect a fraction of the speed of a CPU with AVX2; another machine is the only way out"
    return warn("CPU", f"{model}: neither AVX2 nor NEON; {bf16}", fix)


def _threads(settings: Settings, proc: Path, cgroup: Path) -> Finding:
    total, allowed = os.cpu_count() or 1, len(os.sched_getaffinity(0))
    quota, usable = cpu_quota(proc, cgroup), available_cpus(proc, cgroup)
    limits = f"{allowed} of {total} CPUs allowed" if allowed < total else f"all {total} CPUs allowed"
    limits += f", quota of {quota:g}" if quota < math.inf else ""
    threads = settings.threads or usable
    text = f"{threads} compute ({limits})"
    if threads > usable:
        return warn("threads", text, f"threads wait for each other: use --threads {usable} or leave it out")
    if math.isfinite(quota) and quota < allowed and quota != math.floor(quota):
        return warn(
            "threads", text, f"the quota pays for a part of a CPU that no thread can use: ask for {math.ceil(quota)}"
        )
    return ok("threads", text)


def _load(proc: Path, num_cpus: int) -> Finding:
    busy = float((proc / "loadavg").read_text().split()[0])
    text = f"{busy:g} on average in the last minute, on {num_cpus} CPUs"
    if busy > _BUSY_SHARE * num_cpus:
        return warn("load", text, "a server shares the CPUs with what runs beside it: stop that, or expect less speed")
    return ok("load", text)


def _gpu(settings: Settings, tell: Tell) -> Finding:
    if settings.device == "cpu":
        return ok("GPU", "not looked for: --device cpu")
    if not has_gpu_driver():
        if settings.device == "cuda":
            return fail("GPU", "no driver of a GPU is here", "install the driver, or use --device cpu")
        return ok("GPU", "none, so the CPU computes")
    tell("asking torch about the GPU")
    import torch

    if not torch.cuda.is_available():
        text = f"the driver of a GPU is here, but torch {torch.__version__} finds no device"
        fix = "install a build of torch for this driver (https://pytorch.org/get-started), or say --device cpu"
        return fail("GPU", text, fix) if settings.device == "cuda" else warn("GPU", text, fix)
    free_bytes, total_bytes = torch.cuda.mem_get_info()
    name, (major, minor) = torch.cuda.get_device_name(), torch.cuda.get_device_capability()
    sizes = f"{free_bytes / 2**30:.1f} of {total_bytes / 2**30:.1f} GiB free"
    return ok("GPU", f"{name}, compute capability {major}.{minor}, {sizes}, CUDA {torch.version.cuda}")


def _cpuinfo(proc: Path) -> dict[str, str]:
    """The first processor's lines."""
    values: dict[str, str] = {}
    for line in (proc / "cpuinfo").read_text().split("\n\n")[0].splitlines():
        name, _, value = line.partition(":")
        values[name.strip()] = value.strip()
    return values
