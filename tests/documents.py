"""The documents of this repository as tests read them: blocks of code, by language."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def blocks(text: str, language: str) -> list[str]:
    """What is between ```language and ```."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def section(text: str, title: str) -> str:
    """From a heading of the second level to the next one."""
    _, _, behind = text.partition(f"\n## {title}\n")
    assert behind
    return re.split(r"^## ", behind, maxsplit=1, flags=re.MULTILINE)[0]
