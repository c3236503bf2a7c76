"""API keys as this program holds them: as digests, from the moment that a setting is read.

`ipc/config.py` turns every key that it is given into `sha256:HEX`, so that neither `config.json` nor a printed
configuration, a log or an error can hold a key; a settings file may hold digests itself. Frontends hash what a client
presents and compare digests (`frontend/access.py`). Invariant: a digest is no key: presented by a client, it fails.
"""

import hashlib
import re
from collections.abc import Iterable

MAX_KEY_CHARS = 512

_PREFIX = "sha256:"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_KEY = re.compile(r"[!-~]+")


def key_digest(key: bytes) -> str:
    """`sha256:HEX` of a key."""
    return _PREFIX + hashlib.sha256(key).hexdigest()


def digests_of(keys: Iterable[str]) -> tuple[str, ...]:
    """The digest of each key, each once; what is a digest already stays as it is.

    Raises:
        ValueError: a key is empty, too long, or has characters that no HTTP header carries; it is not repeated.
    """
    return tuple(dict.fromkeys(map(_digest_of, keys)))


def key_id(digest: str) -> str:
    """What names a key where requests are told apart: the beginning of its digest."""
    return "key-" + digest.removeprefix(_PREFIX)[:16]


def _digest_of(key: str) -> str:
    if _DIGEST.fullmatch(key):
        return key
    if not _KEY.fullmatch(key) or len(key) > MAX_KEY_CHARS:
        raise ValueError(f"a key has 1 to {MAX_KEY_CHARS} visible ASCII characters and no spaces")
    return key_digest(key.encode())
