"""What every command that prints for people must know of its streams: may it use colours, and can they take any text.

Used by `chat`, `complete`, `doctor` and `status`. NO_COLOR (https://no-color.org) and a dumb terminal are heeded.
"""

import io
import os
from typing import TextIO

DIM, RED, YELLOW, GREEN, BOLD = "2", "31", "33", "32", "1"


def has_colour(stream: TextIO) -> bool:
    """True on a terminal whose user has not asked for plain text."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def coloured(text: str, code: str, stream: TextIO) -> str:
    """The text in a colour, where the stream may have one."""
    return f"\x1b[{code}m{text}\x1b[0m" if has_colour(stream) else text


def replace_what_does_not_fit(stream: TextIO) -> None:
    """Let a stream of a poor locale write, or read, a replacement instead of failing."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="replace")
