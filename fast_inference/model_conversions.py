"""Files that are converted once into a model folder of the cache, by a program of their own.

Called by `model_store.py`. A conversion is a module run as `python -m MODULE SOURCE TARGET_DIR OPTIONS…`: it writes the
folder, prints nothing on success, and on failure one line on stderr with an exit status that is not 0.
Invariant: the name of the folder tells files and options apart, so that what is found there is what would be made.
Next: `gguf_conversion.py`, `minimal_llm_conversion.py`.
"""

import hashlib
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from fast_inference.child import child_environment
from fast_inference.model_cache import Progress, exclusive, models_dir, replace_folder, scratch_dir
from fast_inference.model_folders import is_model_folder
from ipc.errors import ConfigError
from ipc.tokenizer_files import TOKENIZER_FILES

_CHUNK_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Conversion:
    """How files of one format become folders."""

    module: str
    """What `python -m` runs."""
    options: tuple[str, ...] = ()
    """Arguments after the source and the target; they are a part of the folder's name."""
    companions: tuple[Path, ...] = ()
    """Files that come along; so are their sizes and times."""


GGUF = Conversion("fast_inference.gguf_conversion")


def minimal_llm(checkpoint: Path, rope: str | None) -> Conversion:
    """Of a `.pt` file; `rope` says how it tells positions, where that is not the default of its keys."""
    options = (rope,) if rope is not None else ()
    return Conversion("fast_inference.minimal_llm_conversion", options, tokenizer_files_beside(checkpoint))


def tokenizer_files_beside(checkpoint: Path) -> tuple[Path, ...]:
    """The tokenizer in the folder of a checkpoint; empty where there is none."""
    files = [checkpoint.parent / name for name in TOKENIZER_FILES]
    return tuple(path for path in files if path.is_file()) if files[0].is_file() else ()


def convert_once(source: Path, conversion: Conversion, progress: Progress) -> Path:
    """The folder in the model cache that a file becomes, converted if it is not there yet.

    Raises:
        ConfigError: the conversion failed; the line that it said.
    """
    target = models_dir() / f"{source.stem}-{_fingerprint(source, conversion)}"
    with exclusive(target, progress):
        if not is_model_folder(target):
            with scratch_dir(target) as scratch:
                convert(source, conversion, target, scratch, progress)
    return target


def convert(source: Path, conversion: Conversion, target: Path, scratch: Path, progress: Progress) -> None:
    """Convert into `target` by way of `scratch`; for the holder of the target's lock.

    Raises:
        ConfigError: the conversion failed; the line that it said.
    """
    progress(f"converting {source.name} (once)", None)
    converted = scratch / "converted"
    command = [sys.executable, "-P", "-m", conversion.module, str(source), str(converted), *conversion.options]
    result = subprocess.run(command, capture_output=True, text=True, env=child_environment(), check=False)
    if result.returncode != 0:
        raise ConfigError(f"cannot convert {source}: {last_line(result.stderr) or f'exit {result.returncode}'}")
    replace_folder(converted, target)


def last_line(text: str) -> str:
    """The last line of a program's output that says something; pip's notices do not."""
    lines = [line for line in text.strip().splitlines() if line.strip() and not line.startswith("[notice]")]
    return lines[-1].strip() if lines else ""


def _fingerprint(path: Path, conversion: Conversion) -> str:
    """Changes with the file's size, time or first megabyte, its companions, and with options."""
    stat = path.stat()
    digest = hashlib.sha256(f"{stat.st_size}:{stat.st_mtime_ns}:".encode())
    digest.update("\0".join(conversion.options).encode())
    for companion in conversion.companions:
        stat = companion.stat()
        digest.update(f"\0{companion.name}:{stat.st_size}:{stat.st_mtime_ns}".encode())
    with path.open("rb") as file:
        digest.update(file.read(_CHUNK_BYTES))
    return digest.hexdigest()[:16]
