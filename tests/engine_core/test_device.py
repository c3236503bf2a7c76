"""Device, precision and memory: the same answers as torch gives, and the limits of cgroups."""

import subprocess
import sys

import pytest
import torch

from engine_core.device import available_memory_bytes, has_bf16_arithmetic, resolve_device, resolve_dtype
from ipc.errors import ConfigError


def test_bf16_is_found_where_torch_finds_it():
    assert has_bf16_arithmetic() == torch.ops.mkldnn._is_mkldnn_bf16_supported()


def test_the_device_is_the_one_that_torch_finds():
    assert resolve_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")


def test_without_a_gpu_driver_torch_is_not_imported(tmp_path):
    code = (
        "import sys; from pathlib import Path; from engine_core.device import resolve_device\n"
        f"print(resolve_device('auto', Path({str(tmp_path)!r})), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "cpu False\n"


def test_cuda_without_a_driver_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="--device cpu"):
        resolve_device("cuda", tmp_path)


@pytest.mark.parametrize(
    ("cpuinfo", "dtype"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx2 avx512bw avx512dq avx512vl\n", "bfloat16"),
        ("processor\t: 0\nflags\t\t: fpu avx2 avx512bw avx512dq\n", "float32"),
        ("processor\t: 0\nflags\t\t: avx2 avx_vnni avx_vnni_int8 avx_ne_convert\n", "bfloat16"),
        ("processor\t: 0\nFeatures\t: fp asimd bf16\n", "bfloat16"),
        ("processor\t: 0\nFeatures\t: fp asimd\n", "float32"),
        ("processor\t: 0\n", "float32"),
    ],
)
def test_the_precision_depends_on_the_cpu(tmp_path, cpuinfo, dtype):
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    assert resolve_dtype("auto", "cpu", tmp_path) == dtype
    assert resolve_dtype("auto", "cuda", tmp_path) == "bfloat16"
    assert resolve_dtype("float32", "cuda", tmp_path) == "float32"


def write_system(root, cgroup_line, limits):
    (root / "proc" / "self").mkdir(parents=True)
    (root / "proc" / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    8000 kB\n")
    (root / "proc" / "self" / "cgroup").write_text(cgroup_line + "\n")
    for name, content in limits.items():
        path = root / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return available_memory_bytes(root / "proc", root / "cgroup")


def test_cgroup_v2_counts_reclaimable_pages_as_free(tmp_path):
    files = {"a/b/memory.max": "5000000", "a/b/memory.current": "3000000", "a/b/memory.stat": "inactive_file 1000000\n"}
    assert write_system(tmp_path, "0::/a/b", files) == 3_000_000


def test_a_parent_cgroup_limits_too(tmp_path):
    files = {
        "a/b/memory.max": "max",
        "a/b/memory.current": "10",
        "a/memory.max": "2000000",
        "a/memory.current": "500000",
    }
    assert write_system(tmp_path, "0::/a/b", files) == 1_500_000


def test_cgroup_v1_limit(tmp_path):
    files = {"memory/x/memory.limit_in_bytes": "4000000", "memory/x/memory.usage_in_bytes": "1000000"}
    assert write_system(tmp_path, "7:cpu,memory:/x", files) == 3_000_000


def test_without_cgroups_the_machine_limits(tmp_path):
    assert write_system(tmp_path, "0::/", {}) == 8000 * 1024
