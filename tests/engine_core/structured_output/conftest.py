import numpy as np
import pytest
from llguidance import LLTokenizer

from engine_core.model.fake_runner import IM_END_ID, VOCAB_SIZE, write_fake_tokenizer
from engine_core.structured_output.grammar import CompiledGrammar
from engine_core.structured_output.grammar_source import llguidance_grammar
from ipc.structured_output import StructuredOutput


@pytest.fixture(scope="session")
def tokenizer_dir(tmp_path_factory):
    """A folder with the tokenizer of bytes."""
    folder = tmp_path_factory.mktemp("tokenizer")
    write_fake_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def byte_tokenizer(tokenizer_dir):
    return LLTokenizer(str(tokenizer_dir / "tokenizer.json"), n_vocab=VOCAB_SIZE, eos_token=[IM_END_ID])


@pytest.fixture
def compiled(byte_tokenizer):
    """Compiles for the tokenizer of bytes: `compiled(kind, spec)`."""

    def compiled(kind, spec=""):
        return CompiledGrammar(byte_tokenizer, llguidance_grammar(StructuredOutput(kind, spec)))

    return compiled


def allowed_tokens(matcher, vocab_size=VOCAB_SIZE):
    words = np.zeros(-(-vocab_size // 32), dtype=np.int32)
    matcher.fill_mask(words)
    return set(np.flatnonzero(np.unpackbits(words.view(np.uint8), bitorder="little")[:vocab_size]).tolist())


@pytest.fixture(scope="session")
def allowed():
    """`allowed(matcher)`: the tokens that may come next."""
    return allowed_tokens


@pytest.fixture(scope="session")
def matches():
    """`matches(grammar, text)`: whether the grammar allows this answer, byte by byte, and EOS after it."""

    def matches(grammar, text):
        matcher = grammar.new_matcher()
        for token_id in [*text.encode(), IM_END_ID]:
            if token_id not in allowed_tokens(matcher):
                return False
            matcher.accept([token_id])
        return True

    return matches
