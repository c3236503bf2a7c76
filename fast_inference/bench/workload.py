"""What is asked and when: loads, prompts and arrival times, all drawn from one seed.

Used by `measurement.py`. Invariants: every server gets the same prompts in the same order, and no two rounds of a run
the same prompt, so that a prefix cache finds only what `prefix_len` shares on purpose; a dataset with too few prompts
begins again, which `Dataset.repeats` tells.
Next: `load.py`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ipc.errors import ConfigError

_WORD_LIST = (
    "able about above across act after again age agree air allow also animal answer appear apple area arm art ask baby "
    "back bad ball bank base bear beat bed begin bell best big bird black blood blue board boat body bone book born "
    "both box bread break bright bring brown build burn busy buy call camp capital card care carry case catch cause "
    "cell center chair chance change check child choose circle city class clear climb clock close cloud coast cold "
    "color come common cook copy corn cost count country course cover cross crowd cry current cut dance dark day dead "
    "deal decide deep desert design develop differ direct dog dollar door double down draw dream dress drink drive dry "
    "during each early earth east easy eat edge effect egg eight end enemy energy engine enter equal even event ever "
    "every exact example eye face fact fair fall family far farm fast father favor fear feed feel few field fight fill "
    "find fine finger fire first fish flat floor flow flower fly follow food foot force forest form forward four free "
    "fresh friend front fruit full game garden gas gather gentle get girl give glad glass gold good govern grand grass "
    "gray great green ground group grow guess guide hair half hand happen happy hard hat head hear heart heat heavy "
    "help here high hill history hold hole home hope horse hot hour house huge human hundred hunt hurry ice idea inch"
)
WORDS = _WORD_LIST.split()
"""Common English words: one token each, after a space, in the vocabularies that are in use."""

_PROMPT_STREAM, _PREFIX_STREAM, _ARRIVAL_STREAM = range(3)


@dataclass(frozen=True, slots=True)
class Load:
    """One way to load a server: a closed loop where `concurrency` is set, an open one where `request_rate` is."""

    num_prompts: int
    input_len: int
    """Words or token ids of each prompt, without the shared prefix."""
    output_len: int
    """Tokens of each answer."""
    concurrency: int | None = None
    """Requests under way at any time: the next is sent when one ends."""
    request_rate: float | None = None
    """Requests per second, sent when their time has come, however many are under way."""
    burstiness: float = 1.0
    """Shape of the gamma distribution of the gaps: 1 is a Poisson process, less is burstier, more is more even."""

    @property
    def name(self) -> str:
        """For people: `concurrency 8`, `rate 2.5/s`."""
        return f"rate {self.request_rate:g}/s" if self.concurrency is None else f"concurrency {self.concurrency}"


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request: text or token ids for a completion, text or messages for a chat."""

    content: str | list[int] | list[dict[str, Any]]
    output_len: int


class Workload(Protocol):
    """A source of prompts."""

    def prompts(self, load: Load, count: int, *draw: int) -> list[Prompt]:
        """So many prompts for a load; other numbers `draw` give others."""


class RandomPrompts:
    """Random words, or random token ids below `vocab_size`; each prompt behind the same `prefix_len` of them."""

    def __init__(self, seed: int, *, prefix_len: int = 0, vocab_size: int | None = None) -> None:
        self._seed = seed
        self._vocab_size = vocab_size
        self._prefix = self._draw([seed, _PREFIX_STREAM], 1, prefix_len)[0]

    def prompts(self, load: Load, count: int, *draw: int) -> list[Prompt]:
        """So many prompts for a load; other numbers `draw` give others."""
        rows = self._draw([self._seed, _PROMPT_STREAM, *draw], count, load.input_len)
        return [Prompt(self._content([*self._prefix, *row]), load.output_len) for row in rows]

    def _draw(self, seed: Sequence[int], count: int, length: int) -> list[list[int]]:
        low, high = (0, len(WORDS)) if self._vocab_size is None else (1, self._vocab_size)
        rows: list[list[int]] = np.random.default_rng(seed).integers(low, high, (count, length)).tolist()
        return rows

    def _content(self, ids: list[int]) -> str | list[int]:
        return " ".join(WORDS[index] for index in ids) if self._vocab_size is None else ids


class Dataset:
    """The prompts of a JSON Lines file, in its order: `"text"`, `{"prompt": …}` or `{"messages": […]}` in each line.

    An object may have `output_len` (or `max_tokens`) of its own.
    """

    def __init__(self, path: Path) -> None:
        """Read it all.

        Raises:
            ConfigError: the file cannot be read, has no prompt, or has a line that is none.
        """
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
        self._path = path
        self._rows = [_read_row(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
        self._next: dict[tuple[int, ...], int] = {}
        self._num_drawn = 0
        if not self._rows:
            raise ConfigError(f"{path} has no prompts")

    @property
    def repeats(self) -> bool:
        """True once more prompts were drawn than the file has."""
        return self._num_drawn > len(self._rows)

    def prompts(self, load: Load, count: int, *draw: int) -> list[Prompt]:
        """The next ones of the file; the same again for the same numbers `draw`."""
        if draw not in self._next:
            self._next[draw] = self._num_drawn
            self._num_drawn += count
        first = self._next[draw]
        rows = [self._rows[(first + index) % len(self._rows)] for index in range(count)]
        return [Prompt(content, output_len or load.output_len) for content, output_len in rows]


def arrival_times(load: Load, seed: int, *draw: int) -> list[float]:
    """When each request of an open loop is sent, in seconds from the first, which is sent at once.

    The gaps are gamma-distributed with mean `1 / request_rate`, as in vLLM's benchmark.
    """
    assert load.request_rate is not None
    random = np.random.default_rng([seed, _ARRIVAL_STREAM, *draw])
    gaps = random.gamma(load.burstiness, 1.0 / (load.request_rate * load.burstiness), load.num_prompts - 1)
    times: list[float] = np.concatenate([[0.0], np.cumsum(gaps)]).tolist()
    return times


def _read_row(path: Path, number: int, line: str) -> tuple[str | list[dict[str, Any]], int | None]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}, line {number}: no JSON: {error.msg}") from error
    row = {"prompt": row} if isinstance(row, str) else row
    content = (row.get("messages") or row.get("prompt")) if isinstance(row, dict) else None
    is_chat = isinstance(content, list) and all(isinstance(message, dict) for message in content)
    if not content or not (is_chat or isinstance(content, str)):
        raise ConfigError(f'{path}, line {number}: neither a text nor {{"prompt": "…"}} nor {{"messages": […]}}')
    output_len = row.get("output_len", row.get("max_tokens"))
    if output_len is not None and (type(output_len) is not int or output_len < 1):
        raise ConfigError(f"{path}, line {number}: output_len must be a whole number of at least 1")
    return content, output_len
