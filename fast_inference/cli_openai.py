"""`python -m fast_inference.cli_openai`: the server under its first command line, kept working flag for flag.

Owns the older names (`--model-path`, `--tokenizer-path`, `--model-name`, `--workers`; `MODEL_PATH`, `TOKENIZER_PATH`,
`MODEL_NAME`) and defaults, and translates them into `Settings`; environment variables `FAST_INFERENCE_*` and the
settings file count here as well, below the older names and above the older defaults. It listens
on all addresses unless told otherwise, which `fast-inference serve` (`cli.py`) does not.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from fast_inference.cli import run_command, serve_with
from fast_inference.flags import FlagParser
from fast_inference.settings import Settings, resolve_settings, served_names
from ipc.config import DEFAULT_MODEL_ALIAS

DEFAULT_MODEL_PATH = "models/final_model1.pt"
DEFAULT_TOKENIZER_PATH = "HuggingFaceTB/SmolLM-135M"


class OpenAIServerSettings(Settings):
    """The same settings with the defaults of this command line."""

    host: str = Field("0.0.0.0", min_length=1, description="address to listen on")
    frontends: int = Field(1, ge=1, le=64, description="frontend processes")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status, as in `cli.py`."""
    flags = vars(_parser().parse_args(argv))
    return run_command(lambda: _serve(flags))


def openai_settings(flags: Mapping[str, Any], environment: Mapping[str, str]) -> Settings:
    """Translate the older flags (None where not given) and variables.

    Raises:
        ConfigError: a value is wrong.
    """
    values = {
        "model": flags["model_path"] or environment.get("MODEL_PATH"),
        "tokenizer": flags["tokenizer_path"] or environment.get("TOKENIZER_PATH"),
        "host": flags["host"],
        "port": flags["port"],
        "frontends": flags["workers"],
        "log_level": flags["log_level"] and flags["log_level"].lower(),
    }
    settings = resolve_settings({name: value for name, value in values.items() if value}, OpenAIServerSettings)
    if not _names_a_model(settings) and Path(DEFAULT_MODEL_PATH).exists():
        settings = settings.model_copy(update={"model": DEFAULT_MODEL_PATH})
    if not settings.tokenizer and settings.model.endswith(".pt") and not _has_tokenizer_beside(settings.model):
        settings = settings.model_copy(update={"tokenizer": DEFAULT_TOKENIZER_PATH})
    if model_name := flags["model_name"] or environment.get("MODEL_NAME"):
        names = dict.fromkeys((model_name, *served_names(settings)))
        settings = settings.model_copy(update={"served_model_name": tuple(names)})
    return settings


def no_flags() -> Mapping[str, Any]:
    """What `openai_settings` takes where there is no command line."""
    return vars(_parser().parse_args([]))


def _names_a_model(settings: Settings) -> bool:
    """True if a flag, a variable or the settings file names a model, or the old default is there."""
    return "model" in settings.model_fields_set


def _has_tokenizer_beside(checkpoint: str) -> bool:
    return (Path(checkpoint).parent / "tokenizer.json").is_file()


def _serve(flags: Mapping[str, Any]) -> int:
    settings = openai_settings(flags, os.environ)
    if not _names_a_model(settings):
        print(f"no --model-path and no {DEFAULT_MODEL_PATH}: serving {settings.model}", file=sys.stderr)
    return serve_with(settings)


def _parser() -> FlagParser:
    parser = FlagParser(prog="cli_openai.py", description="Fast Inference OpenAI-Compatible API Server")
    parser.add_argument("--host", help="Host to bind to (default: 0.0.0.0)")
    parser.add_argument("--port", help="Port to bind to (default: 8000)")
    parser.add_argument("--model-path", help="Path to model file")
    parser.add_argument("--tokenizer-path", help="Path to tokenizer")
    parser.add_argument("--model-name", help=f"Model name (default: {DEFAULT_MODEL_ALIAS})")
    parser.add_argument("--workers", help="Number of worker processes (default: 1)")
    parser.add_argument("--log-level", help="Log level (default: info)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
