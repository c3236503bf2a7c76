"""A model for scripts that need one, so small that its speed means nothing."""

from pathlib import Path

import pytest

from engine_core.model.fake_runner import write_fake_tokenizer
from tests.engine_core.model.decoder.families import save_model


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory) -> Path:
    """Of the Llama family, with three layers; takes 256 tokens."""
    folder = tmp_path_factory.mktemp("model")
    save_model("llama", folder)
    write_fake_tokenizer(folder)
    return folder
