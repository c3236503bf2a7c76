"""Turns a MinimalLLM checkpoint of torch.save into a model folder: config.json and model.safetensors.

Run as `python -m fast_inference.minimal_llm_conversion SOURCE.pt TARGET_DIR [ROPE]` by `model_conversions.py`, in a
process of its own so that the launcher never imports torch; it dies with its parent. It prints nothing on success; on
failure one line on stderr and exit code 1. The numbers stay as precise as they are. A tokenizer that lies beside the
checkpoint comes along. Invariant: nothing of the checkpoint is ever run: it is read as plain data.
Next: `minimal_llm_layout.py`.
"""

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from fast_inference.model_conversions import tokenizer_files_beside
from ipc.errors import ConfigError
from ipc.exit_codes import EXIT_CONFIG_ERROR, EXIT_USAGE
from ipc.process import die_with_parent


def convert_minimal_llm(source: Path, target: Path, rope: str | None) -> None:
    """Write the model in `source` to the folder `target` (made if missing).

    Args:
        source: what `torch.save` wrote: a map with `config` and `model_state_dict`.
        target: the folder.
        rope: how positions are told, where the default for the checkpoint's keys is wrong.

    Raises:
        ConfigError: it is no such checkpoint, or it holds more or other than one; says what.
    """
    from safetensors.torch import save_file

    from engine_core.model.torch_checkpoint import read_torch_checkpoint
    from fast_inference.minimal_llm_layout import MinimalLLMShape, Rope

    choice = next((name for name in get_args(Rope) if name == rope), None)
    if choice is None and rope is not None:
        raise ConfigError(f"--rope {rope}: only {', '.join(get_args(Rope))}")
    fields, state = _parts(read_torch_checkpoint(source))
    shape = MinimalLLMShape.read(fields, state, choice)
    tensors = shape.decoder_tensors(state)
    target.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, target / "model.safetensors")
    for path in tokenizer_files_beside(source):
        shutil.copyfile(path, target / path.name)
    config = shape.as_config(has_tied_head="lm_head.weight" not in tensors)
    (target / "config.json").write_text(json.dumps(config, indent=1))


def _parts(checkpoint: Any) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The fields of the config, and the tensors by name."""
    from engine_core.model.pickle_names import PlainObject
    from fast_inference.minimal_llm_layout import named

    if not isinstance(checkpoint, Mapping) or not {"config", "model_state_dict"} <= checkpoint.keys():
        found = named(checkpoint) if isinstance(checkpoint, Mapping) else type(checkpoint).__name__
        raise ConfigError(f"no MinimalLLM checkpoint: it must have config and model_state_dict, not {found}")
    config, state = checkpoint["config"], checkpoint["model_state_dict"]
    fields = config.fields if isinstance(config, PlainObject) else config
    if not isinstance(fields, Mapping) or not isinstance(state, Mapping):
        raise ConfigError("no MinimalLLM checkpoint: its config has no fields, or its model_state_dict is no map")
    return fields, state


def main(arguments: list[str]) -> int:
    """Entry of `python -m`; returns the exit code."""
    if len(arguments) not in (2, 3):
        sys.stderr.write("usage: python -m fast_inference.minimal_llm_conversion SOURCE.pt TARGET_DIR [ROPE]\n")
        return EXIT_USAGE
    try:
        die_with_parent()
        rope = arguments[2] if len(arguments) == 3 else None
        convert_minimal_llm(Path(arguments[0]).absolute(), Path(arguments[1]), rope)
    except ConfigError as error:
        reason = error.message.removeprefix(f"cannot load {arguments[0]}: ")  # the caller names the file
        sys.stderr.write(f"{reason}\n")
        return EXIT_CONFIG_ERROR
    except Exception as error:  # noqa: BLE001 - the top of a process: whatever a malformed file does is one line
        sys.stderr.write(f"{type(error).__name__}: {' '.join(str(error).split())}\n")
        return EXIT_CONFIG_ERROR
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
