"""Which folders are model folders: `config.json` beside safetensors weights that are all there.

Asked by `model_store.py` of what users name and by `hub_snapshots.py` of what the hub gave. Only names of files and the
index are looked at; whether the weights are whole is the core's to check (`engine_core/weight_files.py`).
"""

import json
from pathlib import Path

from ipc.errors import ConfigError

PICKLED = frozenset({".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt"})
"""Suffixes of files that `torch.save` writes."""
CHECKPOINTS = frozenset({".pt", ".pth"})
"""Of these, files that hold a MinimalLLM are converted."""
NO_PICKLES = "files of torch.save are programs that run when they are read (give a folder with *.safetensors)"
_WEIGHTS_FILE = "model.safetensors"
_WEIGHTS_INDEX = "model.safetensors.index.json"


def is_model_folder(path: Path) -> bool:
    """True if there is a config.json, which is written last or by a rename."""
    return (path / "config.json").is_file()


def checked_folder(path: Path) -> Path:
    """The folder as an absolute path.

    Raises:
        ConfigError: it has no config.json, or not all of its weights as safetensors.
    """
    if not is_model_folder(path):
        raise ConfigError(f"{path} is no model folder: config.json is missing")
    has_weights = any(path.glob("*.safetensors"))
    pickled = sorted(file.name for file in path.iterdir() if file.suffix.lower() in PICKLED)
    if not has_weights and pickled:
        raise ConfigError(f"cannot load {path}: it has {pickled[0]} and no *.safetensors; {NO_PICKLES}")
    if not has_weights:
        raise ConfigError(f"{path} is no model folder: *.safetensors is missing")
    if missing := _missing_weights(path):
        raise ConfigError(f"{path} is not whole: {missing[0]} is missing")
    return path.absolute()


def is_whole_folder(folder: Path) -> bool:
    """True if config.json is there and every weight file that the index names.

    Raises:
        ConfigError: the index is damaged.
    """
    has_weights = (folder / _WEIGHTS_FILE).is_file() or (folder / _WEIGHTS_INDEX).is_file()
    return is_model_folder(folder) and has_weights and not _missing_weights(folder)


def _missing_weights(folder: Path) -> list[str]:
    """Weight files that are not there, of those that the index names; without one, any single file will do."""
    index = folder / _WEIGHTS_INDEX
    if (folder / _WEIGHTS_FILE).is_file() or not index.is_file():
        return []
    try:
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
        return [name for name in names if not (folder / name).is_file()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{index} is damaged: {type(error).__name__}") from error
