"""Prompts with a suffix."""

import pytest
from tokenizers import Tokenizer, models, processors

from frontend.chat_template import ChatTemplate
from frontend.default_template import DEFAULT_TEMPLATE
from frontend.fill_in_middle import FAMILIES, FillTokens, fill_prompt
from frontend.tokenizer import FrontendTokenizer
from ipc.errors import UnsupportedParameterError


def tokenizer_with(*tokens: str) -> FrontendTokenizer:
    vocabulary = {token: index for index, token in enumerate(("<s>", *tokens))}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    return FrontendTokenizer(backend, ChatTemplate(DEFAULT_TEMPLATE, {}))


@pytest.mark.parametrize("family", FAMILIES)
def test_prefix_and_suffix_go_between_the_tokens(family: FillTokens):
    assert fill_prompt(tokenizer_with(*family), [10, 11], [12]) == [1, 10, 11, 2, 12, 3]


def test_what_begins_every_text_stays_in_front():
    tokenizer = tokenizer_with(*FAMILIES[0])
    tokenizer.backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    assert fill_prompt(tokenizer, [0, 10], [12]) == [0, 1, 10, 2, 12, 3]


def test_without_a_complete_set_of_tokens_a_suffix_is_refused():
    with pytest.raises(UnsupportedParameterError) as caught:
        fill_prompt(tokenizer_with(*FAMILIES[0][:2]), [10], [12])
    assert caught.value.param == "suffix"
