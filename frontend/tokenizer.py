"""Text to token ids and back, from the folder that the core names in its WELCOME.

A `FrontendTokenizer` holds a `tokenizers.Tokenizer` (Rust; only its batch methods release the interpreter lock), the
chat template and what bounds the cost of a text. It is loaded off the event loop by `frontend/state.py` and is
immutable afterwards. Next: `detokenizer.py` for the way back, token by token.
"""

import asyncio
import json
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders

from frontend.chat_template import ChatTemplate
from frontend.default_template import DEFAULT_TEMPLATE, AnswerEnds
from frontend.token_texts import TokenTexts
from ipc.errors import ConfigError, ContextLengthError

INLINE_CHARS = 10_000
"""Longer texts are tokenized in a thread, so that nobody waits for them."""

_NORMALIZED_SHRINK = 4
"""A normalizer (NFC, NFKC) may compose up to this many characters into one."""


_LOSSY_MODELS = ("WordPiece", "WordLevel")
"""Kinds of vocabularies in which a word of any length may be one token, and white space none."""
_PROBE = "a"


class FrontendTokenizer:
    """The tokenizer of one model."""

    def __init__(self, tokenizer: Tokenizer, chat_template: ChatTemplate) -> None:
        self.backend = tokenizer
        self.chat_template = chat_template
        self.render_thread = ThreadPoolExecutor(1, thread_name_prefix="chat-template")
        """Renders large conversations, one at a time: templates hold the interpreter lock."""
        self.token_texts = TokenTexts(tokenizer)
        self.vocab_size = tokenizer.get_vocab_size()
        added = tokenizer.get_added_tokens_decoder().items()
        self._added_token_ids = {token.content: token_id for token_id, token in added}
        self._special_tokens = frozenset(token.content for _, token in added if token.special)
        self.answer_ends = AnswerEnds.of_template(chat_template.source, self.added_token_id)
        """What ends the answers of chats."""
        longest_token = max((len(token) for token in tokenizer.get_vocab()), default=1)
        self.is_byte_level = isinstance(tokenizer.decoder, decoders.ByteLevel)
        """True where the text of tokens is that of their bytes, one after the other."""
        self._max_chars_per_token: float = longest_token * (
            _NORMALIZED_SHRINK if tokenizer.normalizer is not None else 1
        )
        if type(tokenizer.model).__name__ in _LOSSY_MODELS:
            self._max_chars_per_token = math.inf
        self.num_tokens_around = self._num_tokens_around()
        """Special tokens before and behind a text, where it is tokenized with them."""

    @classmethod
    def load(cls, folder: Path, chat_template_file: Path | None = None) -> "FrontendTokenizer":
        """Read `tokenizer.json`, `tokenizer_config.json` and the chat template.

        Raises:
            ConfigError: a file is missing or malformed.
        """
        try:
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # the library raises nothing more precise
            raise ConfigError(f"cannot read {folder / 'tokenizer.json'}: {error}") from error
        tokenizer.no_truncation()
        tokenizer.no_padding()
        config = _read_config(folder / "tokenizer_config.json")
        source = _template_source(folder, config, chat_template_file)
        return cls(tokenizer, ChatTemplate(source, _special_tokens(config)))

    async def encode(
        self, text: str, *, add_special_tokens: bool, max_tokens: int | None = None, param: str | None = None
    ) -> list[int]:
        """Token ids of a text. With `max_tokens`, a text that must exceed it is refused before it costs anything.

        Raises:
            ContextLengthError: the text alone has more than `max_tokens` tokens, whatever they are.
        """
        if max_tokens is not None:
            least_tokens = math.ceil(len(text) / self._max_chars_per_token)
            if least_tokens > max_tokens:
                raise ContextLengthError(
                    f"This model's maximum context length is {max_tokens} tokens, but the text has {len(text)} "
                    f"characters, which are at least {least_tokens} tokens.",
                    param=param,
                )
        if len(text) > INLINE_CHARS:
            return await asyncio.to_thread(self._encode, text, add_special_tokens)
        return self._encode(text, add_special_tokens)

    def _encode(self, text: str, add_special_tokens: bool) -> list[int]:
        """`encode_batch_fast` is `encode` without offsets, and lets other threads go on."""
        ids: list[int] = self.backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0].ids
        return ids

    def _num_tokens_around(self) -> tuple[int, int]:
        num_added: int = self.backend.num_special_tokens_to_add(is_pair=False)
        if not num_added:
            return 0, 0
        inner, outer = self._encode(_PROBE, False), self._encode(_PROBE, True)
        num_before = next((start for start in range(num_added + 1) if outer[start:][: len(inner)] == inner), 0)
        return num_before, num_added - num_before

    def added_token_id(self, text: str) -> int | None:
        """The id of a token that was added to the vocabulary for this text; None for anything else."""
        return self._added_token_ids.get(text)

    def is_special(self, text: str) -> bool:
        """True for the text of a special token, which `skip_special_tokens` leaves out."""
        return text in self._special_tokens

    def encode_several(self, texts: list[str]) -> list[list[int]]:
        """Token ids of texts, without special tokens around them; lets other threads go on."""
        return [item.ids for item in self.backend.encode_batch_fast(texts, add_special_tokens=False)]

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool = False) -> str:
        """Text of token ids."""
        text: str = self.backend.decode(token_ids, skip_special_tokens=skip_special_tokens)
        return text

    def decode_long(self, token_ids: list[int], *, skip_special_tokens: bool = False) -> str:
        """`decode` in a way that lets other threads go on."""
        text: str = self.backend.decode_batch([token_ids], skip_special_tokens=skip_special_tokens)[0]
        return text

    def token_strings(self, token_ids: list[int]) -> list[str]:
        """The tokens as the vocabulary spells them."""
        return [self.backend.id_to_token(token_id) or "" for token_id in token_ids]


def _read_config(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    return config if isinstance(config, dict) else {}


def _template_source(folder: Path, config: dict[str, Any], override: Path | None) -> str:
    """The operator's template, or the model's own, or the default."""
    own_file = folder / "chat_template.jinja"
    file = override if override is not None else own_file if own_file.exists() else None
    if file is not None:
        try:
            return file.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot read the chat template {file}: {error}") from error
    templates = config.get("chat_template")
    if isinstance(templates, list):  # several named ones
        named = {item.get("name"): item.get("template") for item in templates if isinstance(item, dict)}
        templates = named.get("default")
    return templates if isinstance(templates, str) else DEFAULT_TEMPLATE


def _special_tokens(config: dict[str, Any]) -> dict[str, str]:
    """`bos_token` and the like, which a config spells as text or as an object with `content`."""
    tokens: dict[str, str] = {}
    for name in ("bos_token", "eos_token", "unk_token", "pad_token"):
        token = config.get(name)
        text = token.get("content") if isinstance(token, dict) else token
        tokens[name] = text if isinstance(text, str) else ""
    return tokens
