import asyncio

import pytest

from frontend.model_tokenizers import ModelTokenizers
from ipc.errors import ConfigError, EngineUnavailableError
from tests.factories import make_welcome


def test_a_core_that_gives_its_tokenizer_later_is_asked_again(tokenizer_dir):
    answers = [EngineUnavailableError("no answer"), EngineUnavailableError("no answer"), tokenizer_dir]

    async def find_folder(core):
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def load():
        tokenizers, core = ModelTokenizers(None, find_folder), make_welcome()
        return [(await tokenizers.load(core), tokenizers.is_refused(core)) for _ in range(3)], tokenizers.of(core)

    results, tokenizer = asyncio.run(load())
    assert results == [(False, False), (False, False), (True, False)]
    assert tokenizer is not None


def test_a_first_tokenizer_that_cannot_be_had_is_an_error():
    async def find_folder(core):
        raise ConfigError("not the one that it has loaded")

    with pytest.raises(ConfigError, match="not the one"):
        asyncio.run(ModelTokenizers(None, find_folder).load(make_welcome()))
