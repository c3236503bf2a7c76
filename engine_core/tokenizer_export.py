"""Gives frontends a tokenizer that they can read without transformers: a folder with `tokenizer.json`.

Called once by `engine_core/model/loader.py`; the folder is named to frontends in the WELCOME message.
A model that ships `tokenizer.json` is used where it lies, every other tokenizer is converted once into the model
cache, and so is one that is to write texts in small letters, as the files of sentence-transformers may ask for.
Invariant: a returned folder holds a complete `tokenizer.json` (a new one appears by one rename).
Next: `ipc/tokenizer_files.py` says which files are handed on, `frontend/tokenizer.py` reads them.
"""

import contextlib
import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from engine_core.config_values import read_json_object
from engine_core.sentence_files import read_sentence_files
from ipc.errors import ConfigError
from ipc.tokenizer_files import TOKENIZER_FILE, cache_root

logger = logging.getLogger(__name__)

_TOKENIZER_PATTERNS = [
    "tokenizer*",
    "special_tokens_map.json",
    "chat_template*",
    "vocab*",
    "merges.txt",
    "*.model",
]
_NAME_ONE = (
    "name its folder with --tokenizer (of cli_openai: --tokenizer-path), or put tokenizer.json beside a .pt file"
)


def export_tokenizer(model_dir: Path | None, tokenizer: str | None) -> Path:
    """Return a folder with `tokenizer.json` for a model, converting its tokenizer if it has another format.

    Args:
        model_dir: folder of the model, used where `tokenizer` is None; None for a model without one.
        tokenizer: folder or hub id of another tokenizer.

    Raises:
        ConfigError: there is no tokenizer, or it cannot be converted.
    """
    source = model_dir if tokenizer is None else _tokenizer_dir(tokenizer)
    assert source is not None, "one of the two is given"
    folder = source
    if not (source / TOKENIZER_FILE).is_file():
        if not any(next(source.glob(pattern), None) for pattern in _TOKENIZER_PATTERNS):
            raise ConfigError(f"no tokenizer in {source}: {_NAME_ONE}")
        folder = _cache_folder(source)
        if not (folder / TOKENIZER_FILE).is_file():
            _convert(source, folder)
    if model_dir is None or not read_sentence_files(model_dir).is_lowercased:
        return folder
    lowercased = _cache_folder(folder, "-lowercased")
    if not (lowercased / TOKENIZER_FILE).is_file():
        _lowercase(folder, lowercased)
    return lowercased


def _tokenizer_dir(tokenizer: str) -> Path:
    path = Path(tokenizer).expanduser()
    if path.is_dir():
        return path
    if tokenizer.count("/") != 1 or tokenizer.startswith((".", "/", "~")):
        raise ConfigError(f"no tokenizer at {tokenizer}: neither a folder nor a hub id like 'org/name'")
    return _download(tokenizer)


def _download(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(snapshot_download(hub_id, allow_patterns=_TOKENIZER_PATTERNS, etag_timeout=3))
    except (OSError, HfHubHTTPError, HFValidationError) as error:  # LocalEntryNotFoundError is an OSError
        raise ConfigError(
            f"tokenizer {hub_id}: not in the local hub cache and the hub gave {_line(error)}; {_NAME_ONE}"
        ) from error


def _cache_folder(source: Path, suffix: str = "") -> Path:
    return cache_root() / "tokenizers" / f"{source.name}-{_fingerprint(source)}{suffix}"


def _fingerprint(source: Path) -> str:
    """Hash over the names, sizes and times of the files that make a tokenizer."""
    digest = hashlib.sha256(str(source.absolute()).encode())
    for pattern in _TOKENIZER_PATTERNS:
        for path in sorted(source.glob(pattern)):
            stat = path.stat()
            digest.update(f"{path.name}:{stat.st_size}:{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _convert(source: Path, target: Path) -> None:
    """Read any tokenizer that transformers knows and save it in the fast format, in place by one rename."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise ConfigError(f"no usable tokenizer in {source}: {_line(error)} (name one with --tokenizer)") from error
    with _new_folder(target) as scratch:
        tokenizer.save_pretrained(scratch)
        if not (scratch / TOKENIZER_FILE).is_file():
            raise ConfigError(f"the tokenizer in {source} has no fast form (name another with --tokenizer)")
    logger.info("converted the tokenizer of %s into %s", source, target)


def _lowercase(source: Path, target: Path) -> None:
    """Copy a tokenizer, and let it write texts in small letters before it does anything else with them."""
    values = read_json_object(source / TOKENIZER_FILE)
    normalizers = [{"type": "Lowercase"}]
    if isinstance(values.get("normalizer"), dict):
        normalizers.append(values["normalizer"])
    with _new_folder(target) as scratch:
        for path in {path for pattern in _TOKENIZER_PATTERNS for path in source.glob(pattern)}:
            shutil.copyfile(path, scratch / path.name)
        changed = {**values, "normalizer": {"type": "Sequence", "normalizers": normalizers}}
        (scratch / TOKENIZER_FILE).write_text(json.dumps(changed, ensure_ascii=False), encoding="utf-8")


@contextlib.contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """A scratch folder that takes the target's place by one rename, unless another process was first."""
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".tokenizer-", dir=target.parent))
    try:
        yield scratch
        with contextlib.suppress(FileExistsError):
            _rename_folder(scratch, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _rename_folder(scratch: Path, target: Path) -> None:
    try:
        scratch.rename(target)
    except OSError as error:
        if (target / TOKENIZER_FILE).is_file():
            raise FileExistsError(str(target)) from error
        raise


def _line(error: BaseException) -> str:
    """The first line of an error, with its type."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__
