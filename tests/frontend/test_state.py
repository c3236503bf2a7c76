"""What a frontend knows of its model."""

import pytest

from frontend.state import ServedModel, served_names
from ipc.config import FrontendConfig
from ipc.errors import InvalidRequestError, ModelNotFoundError


@pytest.mark.parametrize(
    ("model_id", "name"), [("org/model", "org/model"), ("/models/my-model", "my-model"), ("./m.gguf", "m.gguf")]
)
def test_a_model_has_its_id_and_the_alias(model_id: str, name: str):
    assert served_names(FrontendConfig(), model_id) == (name, "fast-inference-model")


def test_configured_names_replace_both():
    assert served_names(FrontendConfig(served_model_name=("a", "b")), "x") == ("a", "b")


def test_every_name_is_served_and_no_other(model: ServedModel):
    for name in model.names:
        model.check_name(name)
    with pytest.raises(ModelNotFoundError) as caught:
        model.check_name("gpt-4")
    assert caught.value.param == "model"


def test_an_odd_model_name_is_not_repeated(model: ServedModel):
    with pytest.raises(ModelNotFoundError) as caught:
        model.check_name("a\x1b[31m")
    assert "\x1b" not in caught.value.message


@pytest.mark.parametrize("token_ids", [[-1], [340], [5, 2**70]])
def test_token_ids_are_checked_against_the_vocabulary(model: ServedModel, token_ids: list[int]):
    with pytest.raises(InvalidRequestError) as caught:
        model.check_token_ids(token_ids, "tokens")
    assert caught.value.param == "tokens"


def test_the_fingerprint_is_short(model: ServedModel):
    assert model.system_fingerprint == "fp_0123456789abcdef"
