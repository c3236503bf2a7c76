import os

import pytest

from engine_core.device import available_memory_bytes, has_gpu_driver
from fast_inference.core_shares import CoreShare, divide_machine
from fast_inference.cpu_sets import allowed_cpus
from fast_inference.settings import Settings
from ipc.errors import ConfigError

needs_two_cpus = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs")


@pytest.fixture
def one_cpu():
    """This process may use one CPU only."""
    allowed = allowed_cpus()
    os.sched_setaffinity(0, [min(allowed)])
    yield
    os.sched_setaffinity(0, allowed)


def test_one_core_sees_the_machine_as_it_is():
    [share] = divide_machine(Settings(model="any"))
    assert (share.arguments, share.environment) == ([], {})


@needs_two_cpus
def test_cores_on_the_cpu_have_different_cpus_and_equal_memory():
    before = available_memory_bytes()
    first, second = divide_machine(Settings(model="any", device="cpu", cores=2))
    assert set(first.cpus) | set(second.cpus) == allowed_cpus()
    assert not set(first.cpus) & set(second.cpus)
    assert first.memory_bytes == second.memory_bytes == pytest.approx(before / 2, rel=0.1)


def test_more_cores_than_cpus_are_refused(one_cpu):
    with pytest.raises(ConfigError, match="--cores 2: 1 CPU may be used here, and each core"):
        divide_machine(Settings(model="any", device="cpu", cores=2))


@pytest.mark.skipif(has_gpu_driver(), reason="there may be a GPU")
def test_without_a_gpu_cuda_cannot_be_asked_for():
    with pytest.raises(ConfigError, match="torch finds no CUDA device"):
        divide_machine(Settings(model="any", device="cuda", cores=2))


@pytest.mark.gpu
def test_each_core_has_a_gpu_of_its_own():
    import torch

    count = torch.cuda.device_count()
    with pytest.raises(ConfigError, match=f"torch finds {count} GPU"):
        divide_machine(Settings(model="any", cores=count + 1))


def test_the_fake_model_needs_no_cpu_of_its_own(one_cpu):
    assert divide_machine(Settings(model="fake", cores=3)) == [CoreShare(3)] * 3


def test_a_share_is_told_to_the_core():
    assert CoreShare(2, (0, 1, 2, 8), 1000).arguments == ["--cores", "2", "--cpus", "0-2,8", "--memory-bytes", "1000"]
    assert CoreShare(2, cuda_device="GPU-1").environment == {"CUDA_VISIBLE_DEVICES": "GPU-1"}
