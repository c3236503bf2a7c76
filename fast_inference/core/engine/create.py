"""Makes an in-process engine of a model: of files, of the hub, or a module of the user's own.

The arguments that have names of their own here are those of the first command line's time; all other settings of the
server may be given by their names too. Everything that is wrong is a `ConfigError` before anything runs.
Importing this is cheap: torch comes with the engine. Next: `engine_thread.py`; `engine_core/model/module_loader.py`.
"""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from engine_core.core_server import LoadRunner, load_runner
from engine_core.tokenizer_export import export_tokenizer
from engine_core.tokenizer_facts import eos_token_id
from fast_inference.core.engine.client_thread import ClientThread
from fast_inference.core.engine.engine_thread import EngineFolder, EngineThread
from fast_inference.core.engine.universal_engine import UniversalEngine
from fast_inference.flags import nearest
from fast_inference.model_store import resolve_model
from fast_inference.progress import log_progress
from fast_inference.settings import Settings, resolve_settings, served_names
from ipc.config import DEFAULT_MODEL, FrontendConfig
from ipc.errors import ConfigError
from ipc.tokenizer_files import TOKENIZER_FILE

if TYPE_CHECKING:
    import torch

_OF_FILES = ("dtype", "device", "model_impl", "quantization", "lora", "rope")
"""Settings that say how files are loaded."""


def create_universal_vllm_style_engine(
    model: "str | os.PathLike[str] | torch.nn.Module" = DEFAULT_MODEL,
    tokenizer: Any = None,
    max_seq_len: int | None = None,
    num_blocks: int | None = None,
    block_size: int | None = None,
    max_batch_size: int | None = None,
    scheduler_policy: str | None = None,
    *,
    eos_token_ids: Sequence[int] = (),
    **settings: Any,
) -> UniversalEngine:
    """Start an engine in this process; returns when it accepts requests.

    Args:
        model: a folder, a file, a hub id, a name that `fast-inference pull` knows, or a module (docs/extending.md).
        tokenizer: a folder, a hub id, a tokenizer of transformers, or a `tokenizers.Tokenizer`; the model's own where
            not given. A module needs one.
        max_seq_len: most tokens of a request (`max_model_len`).
        num_blocks: blocks of the KV cache; planned from free memory where not given.
        block_size: tokens in a block, a multiple of 16.
        max_batch_size: most requests in one step (`max_num_seqs`).
        scheduler_policy: `fcfs`, `priority` or `memory_aware` (`scheduling_policy`).
        eos_token_ids: tokens that end an answer, for a module whose config and tokenizer do not say.
        settings: any further settings, by their names in configs/default.yaml with underscores.

    Raises:
        ConfigError: wrong settings, or a model that cannot be run.
    """
    named = {
        "max_model_len": max_seq_len,
        "num_blocks": num_blocks,
        "block_size": block_size,
        "max_num_seqs": max_batch_size,
        "scheduling_policy": scheduler_policy,
    }
    given = {name: value for name, value in named.items() if value is not None}
    if doubled := sorted(given.keys() & settings.keys()):
        raise ConfigError(f"{doubled[0]} is given twice, under its old name too")
    if unknown := sorted(settings.keys() - Settings.model_fields.keys()):
        raise ConfigError(f"no setting {unknown[0]!r}{nearest(unknown[0], Settings.model_fields)}")
    module = model if _is_module(model) else None
    name = type(model).__name__ if module is not None else os.fspath(model)  # type: ignore[arg-type]
    if module is not None and (wrong := sorted(settings.keys() & set(_OF_FILES))):
        raise ConfigError(f"{wrong[0]} is for models in files: a module stays as it is, and where it is")
    resolved = resolve_settings({"drain_timeout": 0.0, **settings, **given, "model": name})
    names = served_names(resolved)
    folder = EngineFolder(resolved)
    try:
        tokenizer_name = _tokenizer_name(tokenizer, folder.path / "tokenizer")
        resolved = resolved.model_copy(update={"tokenizer": tokenizer_name or resolved.tokenizer})
        if module is None:
            resolved = resolved.model_copy(update={"model": resolve_model(name, log_progress, rope=resolved.rope)})
        loading = _loading(module, resolved.tokenizer, tuple(eos_token_ids))
        resolved = resolved.model_copy(update={"served_model_name": names})
        engine = EngineThread(resolved, folder.run_dir, loading)
        try:
            client = ClientThread(folder.run_dir, frontend_config(resolved), int(time.time()))
        except BaseException:
            engine.stop()
            raise
    except BaseException:
        folder.remove()
        raise
    engine.ended.add_done_callback(lambda _: client.disconnect("The engine has failed; the log says why."))
    return UniversalEngine(resolved, folder, engine, client)


def frontend_config(settings: Settings, **changes: Any) -> FrontendConfig:
    """The section of a frontend, with some values changed."""
    return FrontendConfig.model_validate({**settings.model_dump(mode="json"), **changes})


def _is_module(model: object) -> "TypeGuard[torch.nn.Module]":
    if isinstance(model, str | os.PathLike):
        return False
    torch = sys.modules.get("torch")  # else nobody can have made a module
    if torch is not None and isinstance(model, torch.nn.Module):
        return True
    raise ConfigError(f"model must be a path, a name or a torch.nn.Module, not {type(model).__name__}")


def _tokenizer_name(tokenizer: Any, folder: Path) -> str | None:
    """The folder or id of a tokenizer; one that is an object is written into `folder`."""
    if tokenizer is None or isinstance(tokenizer, str | os.PathLike):
        return None if tokenizer is None else os.fspath(tokenizer)
    folder.mkdir()
    if hasattr(tokenizer, "save_pretrained"):
        tokenizer.save_pretrained(folder)
    elif hasattr(tokenizer, "save"):
        tokenizer.save(str(folder / TOKENIZER_FILE))
    if not (folder / TOKENIZER_FILE).is_file():
        raise ConfigError(f"a {type(tokenizer).__name__} cannot be written as {TOKENIZER_FILE}: give a fast tokenizer")
    return str(folder)


def _loading(module: "torch.nn.Module | None", tokenizer: str | None, eos_token_ids: tuple[int, ...]) -> LoadRunner:
    """What the core loads its model with."""
    if module is None:
        return load_runner
    if tokenizer is None:
        raise ConfigError("a module needs a tokenizer")
    from engine_core.model.module_loader import ModuleSource, load_module_runner

    folder = export_tokenizer(None, tokenizer)
    if not eos_token_ids and (token_id := eos_token_id(folder)) is not None:
        eos_token_ids = (token_id,)
    source = ModuleSource(module, folder, eos_token_ids)
    return lambda config, report: load_module_runner(source, config.model, config.cache, config.scheduler, report)
