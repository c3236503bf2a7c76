import os
from pathlib import Path

import pytest
from hypothesis import settings

from fast_inference.model_store import pull

settings.register_profile("default", max_examples=200, deadline=None, derandomize=True)
settings.register_profile("nightly", max_examples=2000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(scope="session")
def smollm2_dir() -> Path:
    """The embedded model, got into the model cache if it is not there."""
    return pull("smollm2-135m-instruct", lambda stage, fraction: None)
