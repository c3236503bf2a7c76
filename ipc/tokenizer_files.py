"""The files that make a tokenizer for a frontend: their names, their fingerprint, and the pieces in which a core hands
them to clients on other hosts.

A core says in its WELCOME where they lie and what their fingerprint is. A client for whom they do not lie there asks
for them with the call TOKENIZER (`tokenizer_transfer.py`), which `TokenizerFiles` answers in the core's I/O thread.
Invariant: no other file is ever read or written, and no answer is longer than a message may be.
"""

import base64
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_FILES = (TOKENIZER_FILE, "tokenizer_config.json", "chat_template.jinja")
"""All that `frontend/tokenizer.py` reads; only the first one must be there."""
PIECE_BYTES = 2**19
"""Most bytes in one answer; as text they are two thirds of the longest string of a message."""


def cache_root() -> Path:
    """The model cache: `$XDG_CACHE_HOME/fast-inference`, with `~/.cache` where the variable is not set."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "fast-inference"


def content_fingerprint(folder: Path) -> str:
    """Hash over the files of a folder; equal for equal content, wherever it is.

    Raises:
        OSError: a file that is there cannot be read.
    """
    paths = {name: folder / name for name in TOKENIZER_FILES}
    return fingerprint_of({name: path.read_bytes() for name, path in paths.items() if path.is_file()})


def fingerprint_of(contents: Mapping[str, bytes]) -> str:
    """The same over what the files hold, by name."""
    digest = hashlib.sha256()
    for name in TOKENIZER_FILES:
        content = contents.get(name, b"")
        digest.update(f"{name}:{len(content)}\n".encode() + content)
    return digest.hexdigest()[:32]


class TokenizerFiles:
    """The files of one core, as clients ask for them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def answer(self, file: str, offset: int) -> dict[str, int | float | str]:
        """Without a name, the size of each file that is there; else `data`, base64 of at most `PIECE_BYTES` from there.

        Raises:
            ValueError: there is no such file, or no such place in it.
            OSError: it cannot be read.
        """
        if not file:
            paths = {name: self._folder / name for name in TOKENIZER_FILES}
            return {name: path.stat().st_size for name, path in paths.items() if path.is_file()}
        if file not in TOKENIZER_FILES:
            raise ValueError("a tokenizer has no such file")
        with (self._folder / file).open("rb") as opened:
            if not 0 <= offset <= os.fstat(opened.fileno()).st_size:
                raise ValueError(f"{file} has no byte {offset}")
            opened.seek(offset)
            return {"data": base64.b64encode(opened.read(PIECE_BYTES)).decode()}
