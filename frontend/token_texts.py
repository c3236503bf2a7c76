"""What single tokens are: their bytes, and their text where the bytes are one.

Log-probabilities name tokens that need not be part of any text, so that the detokenizer cannot help: a token may be a
part of a character. The bytes come from the vocabulary's own spelling, read as the tokenizer's decoder reads it:
GPT-2's stand-ins for bytes (ByteLevel), or `▁` for a space and `<0x0A>` for a byte (sentencepiece).
Invariant: the bytes of an answer's tokens together are the bytes of its text, as far as special tokens are shown and
the decoder only joins. Used by `frontend/openai/logprobs.py`.
"""

import json
import re
from typing import Any

from tokenizers import Tokenizer

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class TokenTexts:
    """The tokens of one vocabulary."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._added = {token_id: token.content for token_id, token in tokenizer.get_added_tokens_decoder().items()}
        decoder = tokenizer.decoder
        kinds = _kinds_of(json.loads(decoder.__getstate__())) if decoder is not None else set()
        self._byte_of_character = _byte_of_character() if "ByteLevel" in kinds else None
        self._is_sentencepiece = bool(kinds & {"ByteFallback", "Metaspace"})
        self._bytes: dict[int, bytes] = {}

    def bytes_of(self, token_id: int) -> bytes:
        """UTF-8, or a part of it; empty for an id that the tokenizer does not know."""
        known = self._bytes.get(token_id)
        if known is None:
            known = self._bytes[token_id] = self._read(token_id)
        return known

    def text_of(self, token_id: int) -> str:
        """The text, or OpenAI's spelling of bytes that are none, such as `bytes:\\xf0\\x9f`."""
        data = self.bytes_of(token_id)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)

    def _read(self, token_id: int) -> bytes:
        if token_id in self._added:
            return self._added[token_id].encode()
        token = self._tokenizer.id_to_token(token_id)
        if token is None:
            return b""
        if self._byte_of_character is not None:
            table = self._byte_of_character
            return b"".join(bytes([table[char]]) if char in table else char.encode() for char in token)
        if self._is_sentencepiece:
            byte_token = _BYTE_TOKEN.fullmatch(token)
            return bytes.fromhex(byte_token[1]) if byte_token else token.replace("▁", " ").encode()
        text: str = self._tokenizer.decode([token_id], skip_special_tokens=False)
        return text.encode()


def _kinds_of(decoder: Any) -> set[str]:
    """The types of a decoder and of those that it is made of."""
    if not isinstance(decoder, dict):
        return set()
    parts = decoder.get("decoders") or []
    return {str(decoder.get("type"))}.union(*map(_kinds_of, parts))


def _byte_of_character() -> dict[str, int]:
    """GPT-2's stand-ins: printable bytes are themselves, the others follow from 256 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    return table | {chr(256 + index): byte for index, byte in enumerate(others)}
