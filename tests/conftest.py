import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from engine_core.device import resolve_device
from fast_inference.model_store import pull

settings.register_profile("default", max_examples=200, deadline=None, derandomize=True)
settings.register_profile("nightly", max_examples=2000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # teams of threads crawl where several compute at once


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests marked `gpu` are collected everywhere, and deselected where there is no CUDA device."""
    needing_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if needing_gpu and resolve_device("auto") != "cuda":
        config.hook.pytest_deselected(items=needing_gpu)
        items[:] = [item for item in items if item not in needing_gpu]


@pytest.fixture(scope="session", autouse=True)
def _state_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Servers that tests start leave no files and batches in the home of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state-home")))
        yield


@pytest.fixture(scope="session")
def smollm2_dir() -> Path:
    """The embedded model, got into the model cache if it is not there."""
    return pull("smollm2-135m-instruct", lambda stage, fraction: None)
