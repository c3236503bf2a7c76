"""Gets the tokenizer of a core on another host: once into the model cache of this one, where all its processes find it.

Called by `ipc.client.EngineClient` for a client that wants to tokenize. The folder is named by the fingerprint that the
core has said; what comes is checked against it before it takes its place by one rename. Invariant: a folder that is
returned holds what the fingerprint says, and nothing but files of `tokenizer_files.py` was written, of bounded size.
"""

import asyncio
import base64
import binascii
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from ipc.errors import ConfigError
from ipc.tokenizer_files import TOKENIZER_FILE, TOKENIZER_FILES, cache_root, content_fingerprint, fingerprint_of

log = logging.getLogger(__name__)

MAX_TOKENIZER_BYTES = 128 * 2**20
"""Of all files together; the largest tokenizers have a quarter of it."""
_MIN_PIECE_BYTES = 2**15
"""In each answer but the last one of a file, so that a core cannot keep its frontends busy for ever."""
_FINGERPRINT = re.compile(r"[0-9a-f]{32}")

CallCore = Callable[[dict[str, int | str]], Awaitable[Mapping[str, int | float | str]]]
"""Makes the call TOKENIZER with these arguments."""


def has_tokenizer(folder: Path, fingerprint: str) -> bool:
    """True if a folder holds the tokenizer with this fingerprint, whole."""
    try:
        return (folder / TOKENIZER_FILE).is_file() and content_fingerprint(folder) == fingerprint
    except OSError:
        return False


async def fetch_tokenizer(call: CallCore, fingerprint: str) -> Path:
    """The folder with the tokenizer of this fingerprint, which is got from the core unless an earlier call has.

    Raises:
        ConfigError: what the core gives is not what it has promised, or the model cache cannot be written.
        EngineUnavailableError: the core gives no answer.
        ServerError: it answers with an error.
    """
    if not _FINGERPRINT.fullmatch(fingerprint):
        raise ConfigError(f"the core on the other host gives its tokenizer the fingerprint {fingerprint[:80]!r}")
    folder = cache_root() / "tokenizers" / fingerprint
    if await asyncio.to_thread(has_tokenizer, folder, fingerprint):
        return folder
    contents = await _fetch(call)
    if fingerprint_of(contents) != fingerprint:
        raise ConfigError("the tokenizer of the core on the other host is not the one that it has loaded")
    try:
        await asyncio.to_thread(_store, contents, folder)
    except OSError as error:
        raise ConfigError(f"cannot write the tokenizer into the model cache {folder}: {error.strerror}") from error
    log.info("got the tokenizer of the core on the other host: %s", folder)
    return folder


async def _fetch(call: CallCore) -> dict[str, bytes]:
    """All files of the tokenizer, by name."""
    listed = await call({})
    sizes = {name: size for name in TOKENIZER_FILES if isinstance(size := listed.get(name), int)}
    if sum(sizes.values()) > MAX_TOKENIZER_BYTES or min(sizes.values(), default=0) < 0:
        raise ConfigError(f"the tokenizer of the core on the other host has {sum(sizes.values())} bytes")
    return {name: await _fetch_file(call, name, size) for name, size in sizes.items()}


async def _fetch_file(call: CallCore, name: str, size: int) -> bytes:
    content = bytearray()
    while len(content) < size:
        data = (await call({"file": name, "offset": len(content)})).get("data")
        try:
            piece = base64.b64decode(data if isinstance(data, str) else "", validate=True)
        except binascii.Error:
            piece = b""
        if len(piece) < min(_MIN_PIECE_BYTES, size - len(content)):
            raise ConfigError(f"{name} of the core on the other host ends after {len(content)} of {size} bytes")
        content += piece
    return bytes(content)


def _store(contents: Mapping[str, bytes], folder: Path) -> None:
    """Write a folder whole; one of another process that was first is as good, anything else there is replaced."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".tokenizer-", dir=folder.parent))
    try:
        for name, content in contents.items():
            (scratch / name).write_bytes(content)
        try:
            os.rename(scratch, folder)
        except OSError:
            if has_tokenizer(folder, fingerprint_of(contents)):
                return
            shutil.rmtree(folder)
            os.rename(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
