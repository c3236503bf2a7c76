"""What the core itself must know of a tokenizer: which token ends a text, and that all of its ids are the model's.

Asked by `model/loader.py` where the model's own files do not say it, and for modules of a user's own. Reads the folder
that `tokenizer_export.py` gives; everything wrong with it is a `ConfigError`.
"""

from pathlib import Path

from tokenizers import Tokenizer

from engine_core.config_values import read_json_object
from ipc.errors import ConfigError
from ipc.tokenizer_files import TOKENIZER_FILE


def eos_token_id(folder: Path) -> int | None:
    """The id of `eos_token` in `tokenizer_config.json`; None where it names none, or one that the tokenizer lacks."""
    path = folder / "tokenizer_config.json"
    token = read_json_object(path).get("eos_token") if path.is_file() else None
    text = token.get("content") if isinstance(token, dict) else token
    if not isinstance(text, str):
        return None
    token_id: int | None = _read(folder).token_to_id(text)
    return token_id


def check_vocabulary(folder: Path, vocab_size: int) -> None:
    """Raise `ConfigError` if the tokenizer makes ids that a model of `vocab_size` tokens does not have."""
    num_ids = 1 + max(_read(folder).get_vocab().values(), default=-1)
    if num_ids > vocab_size:
        raise ConfigError(
            f"the tokenizer in {folder} has {num_ids} tokens and the model {vocab_size}: it is not the one that the "
            "model was trained with"
        )


def _read(folder: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(folder / TOKENIZER_FILE))
    except Exception as error:  # the library raises nothing more precise
        raise ConfigError(f"cannot read {folder / TOKENIZER_FILE}: {' '.join(str(error).split())}") from error
