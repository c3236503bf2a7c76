#!/usr/bin/env python3
"""Usage: scripts/generate_config_docs.py [--check]

Writes docs/configuration.md from the settings (ipc/config.py, in the order of fast_inference/flags.py) and from the
files in configs/. With --check it only compares, and exits with 1 where the file is stale.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from fast_inference.flags import ALIASES, SECTIONS, environment_name, flag_name  # noqa: E402

DOCUMENT = ROOT / "docs" / "configuration.md"

INTRODUCTION = """\
# Configuration

Written by `scripts/generate_config_docs.py` from the code; a test compares them.

A setting can be given in four places; the first of them that names it wins:

1. a flag of `fast-inference serve`: `--max-num-seqs 32`
2. a variable of the environment: `FAST_INFERENCE_MAX_NUM_SEQS=32`
3. the YAML file that `--config` or `FAST_INFERENCE_CONFIG` names: `max-num-seqs: 32`
4. the default

In files, underscores may stand for hyphens. A setting of yes and no has two flags, `--batch-api` and `--no-batch-api`;
in the environment and in files it is `true` or `false`. One that can be *repeated* takes several values: the flag once
for each, a list in files, JSON in the environment (`FAST_INFERENCE_API_KEY='["one", "two"]'`). A wrong value, and a
setting that a flag, a variable `FAST_INFERENCE_…` or a file names and nobody knows, is refused before anything starts,
in one line with the nearest known name.

`fast-inference serve --print-config` prints what all of them amount to, and starts nothing. The launcher decides once
and writes the result to `config.json` in the run dir, from which its children read. What a start would allocate with
these settings says `fast-inference plan`, with the same flags.
"""

FILES = """\
## Files to start from

[configs/default.yaml](../configs/default.yaml) lists every setting with its default. The others set what they are
about:

"""


def value_of(value: Any) -> str:
    """A value as it is written in a settings file; nothing where there is none."""
    if value is None or value in ("", ()):
        return ""
    return f"`{json.dumps(list(value)) if isinstance(value, tuple) else json.dumps(value).strip(chr(34))}`"


def meaning_of(field: FieldInfo) -> str:
    """The description, with what may be chosen, or that it can be repeated."""
    text = " ".join((field.description or "").split())
    if get_origin(field.annotation) is Literal:
        return f"{text}. One of {', '.join(f'`{item}`' for item in get_args(field.annotation))}"
    return f"{text}; repeatable" if isinstance(field.default, tuple) else text


def rows_of(section: type[BaseModel]) -> Iterator[str]:
    """A row of the table for each setting."""
    for name, field in section.model_fields.items():
        flags = ", ".join(f"`{flag}`" for flag in (flag_name(name), *ALIASES.get(name, ())))
        if field.annotation is bool and field.default:
            flags = f"`--no-{flag_name(name)[2:]}`"
        meaning = meaning_of(field).replace("|", "\\|")
        yield f"| {flags} | `{environment_name(name)}` | {value_of(field.default)} | {meaning} |"


def title_of(section: type[BaseModel]) -> str:
    """The first sentence of its docstring."""
    return (section.__doc__ or section.__name__).splitlines()[0].partition(". ")[0].rstrip(".")


def document() -> str:
    """The whole text of docs/configuration.md."""
    lines = [INTRODUCTION]
    for section in SECTIONS:
        lines += [f"## {title_of(section)}", "", "| flag | environment | default | meaning |", "|---|---|---|---|"]
        lines += [*rows_of(section), ""]
    lines.append(FILES + "\n".join(shown_files()))
    return "\n".join(lines) + "\n"


def shown_files() -> Iterator[str]:
    """A row for each example: its name, its first comment, its settings."""
    yield "| file | sets |"
    yield "|---|---|"
    for path in sorted((ROOT / "configs").glob("*.yaml")):
        if path.name != "default.yaml":
            settings = yaml.safe_load(path.read_text())
            shown = ", ".join(f"`{key}: {json.dumps(value).strip(chr(34))}`" for key, value in settings.items())
            yield f"| [configs/{path.name}](../configs/{path.name}) | {shown} |"


def main() -> int:
    """Write, or compare."""
    if "--check" in sys.argv[1:]:
        return int(not DOCUMENT.exists() or DOCUMENT.read_text(encoding="utf-8") != document())
    DOCUMENT.write_text(document(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
