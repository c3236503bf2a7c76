"""Who asks what and when: sessions with turns that go on from each other, behind prompts that many share.

A session begins at a random time (Poisson), with the shared text of one of many tenants or documents (Zipf), and has a
geometric number of turns; each turn comes some time after the answer to the one before, and its prompt is all that was
said. Invariant: everything is drawn from one seed, session by session, so that each policy gets the same sessions.
Next: `simulation.py`.
"""

import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate

from fast_inference.bench.fleet.tokens import Text


@dataclass(frozen=True, slots=True)
class WorkloadShape:
    """What is drawn. Lengths in tokens: medians of lognormal distributions."""

    description: str
    shared_per_core: float
    """Texts that sessions share, for each core; 0 for none."""
    zipf: float
    """Exponent of their popularity."""
    shared_tokens: int
    session_tokens: int
    """Of a session's first prompt, behind the shared text."""
    turn_tokens: int
    """Of what each further turn adds."""
    output_tokens: int
    mean_turns: float
    think_s: float
    """Mean time between an answer and the next turn."""
    sigma: float = 0.6
    """Of the logarithms of lengths."""
    max_tokens: int = 4000
    """A session ends before its prompt and answer are longer."""


SHAPES: Mapping[str, WorkloadShape] = {
    "chat": WorkloadShape(
        "chat sessions of tenants with system prompts of their own",
        shared_per_core=2.0,
        zipf=1.0,
        shared_tokens=500,
        session_tokens=60,
        turn_tokens=60,
        output_tokens=120,
        mean_turns=5.0,
        think_s=10.0,
    ),
    "documents": WorkloadShape(
        "questions about long documents that many ask about",
        shared_per_core=16.0,
        zipf=0.9,
        shared_tokens=1600,
        session_tokens=60,
        turn_tokens=60,
        output_tokens=80,
        mean_turns=2.0,
        think_s=8.0,
    ),
    "unique": WorkloadShape(
        "single prompts that share nothing",
        shared_per_core=0.0,
        zipf=1.0,
        shared_tokens=0,
        session_tokens=400,
        turn_tokens=0,
        output_tokens=120,
        mean_turns=1.0,
        think_s=0.0,
    ),
}
"""By name."""


@dataclass(slots=True)
class Turn:
    """What is asked next in a session."""

    session: int
    prompt: Text
    num_output_tokens: int
    owner: int
    """Who writes the answer."""
    think_s: float
    """Until the next turn, from the end of the answer on."""


class Session:
    """One session, turn by turn."""

    def __init__(self, number: int, shape: WorkloadShape, shared: Text, owner: int, seed: int) -> None:
        self._number = number
        self._shape = shape
        self._owner = owner
        self._random = random.Random(seed * 1_000_003 + number)
        self._text = shared
        self._num_left = _geometric(self._random, shape.mean_turns)
        self._is_first = True

    def next_turn(self) -> Turn | None:
        """The next one; None where the session is over."""
        if self._num_left == 0:
            return None
        self._num_left -= 1
        shape, source = self._shape, self._random
        num_new = _lognormal(source, shape.session_tokens if self._is_first else shape.turn_tokens, shape.sigma)
        num_output = _lognormal(source, shape.output_tokens, shape.sigma)
        think_s = source.expovariate(1 / shape.think_s) if shape.think_s else 0.0
        num_room = shape.max_tokens - self._text.num_tokens
        if num_room < 2 or (not self._is_first and num_new + num_output > num_room):
            return None
        num_new = min(num_new, num_room - 1)
        num_output = min(num_output, num_room - num_new)
        prompt = self._text.plus(self._owner, num_new)
        self._text = prompt.plus(self._owner, num_output)
        self._is_first = False
        return Turn(self._number, prompt, num_output, self._owner, think_s)


class Workload:
    """Sessions one after the other."""

    def __init__(self, shape: WorkloadShape, num_cores: float, requests_per_s: float, seed: int) -> None:
        """`num_cores` says how many texts are shared, `requests_per_s` is what arrives in the mean."""
        self._shape = shape
        self._seed = seed
        self._sessions_per_s = requests_per_s / shape.mean_turns
        self._random = random.Random(seed)
        num_shared = math.ceil(shape.shared_per_core * num_cores)
        self._shared = [
            Text().plus(owner, _lognormal(self._random, shape.shared_tokens, shape.sigma, shape.max_tokens // 2))
            for owner in range(num_shared)
        ]
        self._weights = list(accumulate((rank + 1) ** -shape.zipf for rank in range(num_shared)))

    def sessions(self) -> Iterator[tuple[float, Session]]:
        """When each begins, without an end."""
        begins_s = 0.0
        number = 0
        while True:
            begins_s += self._random.expovariate(self._sessions_per_s)
            shared = self._random.choices(self._shared, cum_weights=self._weights)[0] if self._shared else Text()
            owner = len(self._shared) + number
            yield begins_s, Session(number, self._shape, shared, owner, self._seed)
            number += 1


def _lognormal(source: random.Random, median: int, sigma: float, most: int | None = None) -> int:
    number = max(1, round(source.lognormvariate(math.log(max(1, median)), sigma)))
    return number if most is None else min(number, most)


def _geometric(source: random.Random, mean: float) -> int:
    """At least 1."""
    if mean <= 1:
        return 1
    return 1 + int(math.log(1 - source.random()) / math.log(1 - 1 / mean))
