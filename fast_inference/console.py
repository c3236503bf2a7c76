"""What every command that prints for people must know of its streams: may it use colours, and can they take any text.

Used by `chat`, `complete`, `doctor` and `status`. NO_COLOR (https://no-color.org) and a dumb terminal are heeded.
"""

import io
import os
import re
import sys
from typing import TextIO

DIM, RED, YELLOW, GREEN, BOLD = "2", "31", "33", "32", "1"
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def printable(text: str) -> str:
    """Text of somebody else without what a terminal would obey: control characters, but for tabs and line ends."""
    return _CONTROL.sub("", text)


def has_cursor(stream: TextIO) -> bool:
    """True on a terminal where what was printed can be printed over."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def has_colour(stream: TextIO) -> bool:
    """True on a terminal whose user has not asked for plain text."""
    return has_cursor(stream) and not os.environ.get("NO_COLOR")


def coloured(text: str, code: str, stream: TextIO) -> str:
    """The text in a colour, where the stream may have one."""
    return f"\x1b[{code}m{text}\x1b[0m" if has_colour(stream) else text


def open_missing_streams() -> None:
    """Give a program that was started without some of its three streams (`>&-`) empty ones, as `/dev/null` is.

    Else the next file or socket would get their numbers, and children take it for their output.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode)  # noqa: SIM115 - as long as the program
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)


def drop_output() -> None:
    """Let what stdout still holds go nowhere, where it cannot be written: the interpreter would complain at its end."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def replace_what_does_not_fit(stream: TextIO) -> None:
    """Let a stream of a poor locale write, or read, a replacement instead of failing."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="replace")
