from pathlib import Path

import pytest

from fast_inference.model_store import pull


@pytest.fixture(scope="session")
def smollm2_dir() -> Path:
    """The embedded model, got into the model cache if it is not there."""
    return pull("smollm2-135m-instruct", lambda stage, fraction: None)
