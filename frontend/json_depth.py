"""How deep a JSON text nests, known before anything recursive reads it.

Used by `request_body.py`. The text is reduced to its brackets and the innermost pairs are taken away round by round,
each round one pass in C, so that neither depth nor length costs Python steps.
"""

import re

MAX_JSON_DEPTH = 64
"""Most arrays and objects around a value."""

_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_TO_SQUARE = bytes.maketrans(b"{}", b"[]")
_NOT_SQUARE = bytes(byte for byte in range(256) if byte not in b"[]")


def is_too_deep(raw: bytes) -> bool:
    """True if the text is JSON that nests deeper than `MAX_JSON_DEPTH`; anything about what is no JSON."""
    if raw.count(b"[") + raw.count(b"{") <= MAX_JSON_DEPTH:
        return False
    brackets = _STRING.sub(b"", raw).translate(_TO_SQUARE).translate(None, _NOT_SQUARE)
    for _ in range(MAX_JSON_DEPTH):
        brackets = brackets.replace(b"[]", b"")
    return b"[]" in brackets
