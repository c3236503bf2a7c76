"""Turns a GGUF file into a model folder: config.json, bf16 model.safetensors, tokenizer.json, chat_template.jinja.

Run as `python -m fast_inference.gguf_conversion SOURCE.gguf TARGET_DIR` by `fast_inference/model_conversions.py`, in a
process of its own so that the launcher never imports torch; it dies with its parent. It prints nothing on success; on
failure one line on stderr and exit code 1. The target folder is written in place: the caller renames it when whole.
"""

import os
import sys
import warnings
from pathlib import Path
from typing import Any

from engine_core.model_kind import model_path
from fast_inference.gguf_header import check_gguf
from ipc.errors import ConfigError
from ipc.exit_codes import EXIT_CONFIG_ERROR, EXIT_USAGE
from ipc.process import die_with_parent


def convert_gguf(source: Path, target: Path) -> None:
    """Write the model in `source` to the folder `target` (made if missing), dequantized to bf16.

    Raises:
        ConfigError: the file's header contradicts the file, or the model is of a kind that cannot be run here.
        ValueError: the architecture is not known, or tensors of the model are missing in the file.
    """
    check_gguf(source)
    model = load_gguf(source, "bfloat16")
    tokenizer = gguf_tokenizer(source)
    _set_special_ids(model, tokenizer)
    target.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    if not (target / "tokenizer.json").is_file():
        raise ValueError(f"the tokenizer of {source.name} cannot be written as tokenizer.json")


def load_gguf(source: Path, dtype: str) -> Any:
    """The transformers model in a file, dequantized; to be saved, not run: what is in no file stays on the meta device.

    Raises:
        ConfigError: it is of a kind that cannot be run here.
        ValueError: the architecture is not known, or tensors of the model are missing in the file.
    """
    import torch
    import transformers
    from transformers import modeling_gguf_pytorch_utils

    auto: Any = transformers  # its Auto classes are only partly typed
    load_gguf_checkpoint: Any = modeling_gguf_pytorch_utils.load_gguf_checkpoint
    torch_dtype = getattr(torch, dtype)
    config = auto.AutoConfig.from_pretrained(source.parent, gguf_file=source.name)
    model_path(config.to_dict())
    with torch.device("meta"):
        model = auto.AutoModelForCausalLM.from_config(config, dtype=torch_dtype)
    # from_pretrained(gguf_file=) does the same two steps, but asks for accelerate, which nothing else here needs.
    loaded = load_gguf_checkpoint(str(source), return_tensors=True, model_to_load=model, torch_dtype=torch_dtype)
    _check_complete(model, set(loaded["tensors"]), source)
    model.load_state_dict(loaded["tensors"], strict=False, assign=True)
    model.tie_weights()
    return model


def gguf_tokenizer(source: Path) -> Any:
    """The transformers tokenizer in a file, with its chat template."""
    import transformers

    auto: Any = transformers
    return auto.AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)


def _check_complete(model: Any, found: set[str], source: Path) -> None:
    """Every parameter must come from the file; a tied output layer may come from the embedding."""
    tied = set(model.all_tied_weights_keys)
    missing = {name for name, _ in model.named_parameters(remove_duplicate=False)} - found - tied
    if missing:
        raise ValueError(f"{source.name} lacks {len(missing)} tensors, such as {min(missing)}")


def _set_special_ids(model: Any, tokenizer: Any) -> None:
    """Let config.json and generation_config.json say what the tokenizer says."""
    for config in (model.config, model.generation_config):
        if tokenizer.eos_token_id is not None:
            config.eos_token_id = tokenizer.eos_token_id
        if tokenizer.bos_token_id is not None:
            config.bos_token_id = tokenizer.bos_token_id
    model.generation_config._from_model_config = False
    model.config._name_or_path = ""


def main(arguments: list[str]) -> int:
    """Entry of `python -m`; returns the exit code."""
    if len(arguments) != 2:
        sys.stderr.write("usage: python -m fast_inference.gguf_conversion SOURCE.gguf TARGET_DIR\n")
        return EXIT_USAGE
    os.environ.update(TRANSFORMERS_VERBOSITY="error", HF_HUB_DISABLE_PROGRESS_BARS="1", TQDM_DISABLE="1")
    os.environ["HF_HUB_OFFLINE"] = "1"
    warnings.simplefilter("ignore")
    try:
        die_with_parent()
        convert_gguf(Path(arguments[0]).absolute(), Path(arguments[1]))
    except ConfigError as error:
        sys.stderr.write(f"{error.message}\n")
        return EXIT_CONFIG_ERROR
    except Exception as error:  # noqa: BLE001 - the top of a process: whatever a malformed file does is one line
        sys.stderr.write(f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}\n")
        return EXIT_CONFIG_ERROR
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
