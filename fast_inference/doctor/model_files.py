"""Checks of the model and its cache: is it here, is it whole, and is there room for what has to be got.

Only headers of weights are read, as `plan` does; a file that was cut off is found, a bit that was changed is not.
"""

import json
import os
import shutil
from pathlib import Path

from engine_core.memory_plan import format_bytes
from engine_core.weight_files import stored_tensors
from fast_inference.doctor.finding import Finding, Findings, Tell, fail, ok, warn
from fast_inference.doctor.folders import why_not_writable
from fast_inference.model_cache import models_dir
from fast_inference.model_store import find_model
from fast_inference.settings import Settings, served_names
from fast_inference.wheel_models import known_name
from ipc.config import FAKE_MODEL
from ipc.errors import ConfigError

_ROOM_BYTES = 2 * 2**30
"""For a model that comes in a wheel, its download and what is made of it."""


def check_model_files(settings: Settings, tell: Tell) -> Findings:
    """The model, and the folder where models are kept."""
    yield _model(settings)
    yield _cache(models_dir())


def _model(settings: Settings) -> Finding:
    if settings.model == FAKE_MODEL:
        return ok("model", "fake: it has no files")
    try:
        served_names(settings)
        folder = Path(find_model(settings.model, rope=settings.rope))
    except ConfigError as error:
        if "is not in the model cache" in error.message:
            name = known_name(settings.model) or settings.model
            return warn(
                "model", f"{name} is not here yet", f"`serve` gets it, or beforehand `fast-inference pull {name}`"
            )
        return fail("model", error.message, "name another one with --model; `fast-inference models` lists what is here")
    pull = f"remove {folder} and run `fast-inference pull {settings.model}`" if models_dir() in folder.parents else ""
    try:
        tensors = stored_tensors(folder)
        if (folder / "tokenizer.json").is_file():
            json.loads((folder / "tokenizer.json").read_bytes())
    except ConfigError as error:
        return fail("model", f"damaged: {error.message}", pull or "get its files again")
    except ValueError as error:
        return fail("model", f"damaged: {folder / 'tokenizer.json'}: {error}", pull or "get its files again")
    size = sum(os.stat(path).st_size for path in {tensor.path for tensor in tensors.values()})
    return ok("model", f"{settings.model}: {len(tensors)} tensors, {format_bytes(size)}, whole, in {folder}")


def _cache(folder: Path) -> Finding:
    if reason := why_not_writable(folder):
        fix = "make it writable, or name another folder in XDG_CACHE_HOME"
        return warn("model cache", f"{folder}: {reason}", fix)
    here = next(path for path in (folder, *folder.parents) if path.is_dir())
    free_bytes = shutil.disk_usage(here).free
    text = f"{folder}, {format_bytes(free_bytes)} free on its disk"
    if free_bytes < _ROOM_BYTES:
        return warn("model cache", text, "free some, or name a folder on another disk in XDG_CACHE_HOME")
    return ok("model cache", text)
