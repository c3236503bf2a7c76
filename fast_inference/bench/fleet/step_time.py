"""How long a step of a core takes, from four coefficients that were measured.

    fixed + per_request * decodes + per_context_token * sum of the decodes' contexts + per_prefill_token * prompt tokens

Profiles are JSON files in `profiles/`, each with the command that measured it (`fitting.py`). Invariant: a run of
decode steps by the closed form takes as long as the same steps one by one, but for rounding.
Next: `core_model.py`.
"""

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

from ipc.errors import ConfigError

PROFILES_DIR = Path(__file__).with_name("profiles")


@dataclass(frozen=True, slots=True)
class StepTime:
    """The coefficients, in seconds, and what a request spends outside of steps."""

    fixed_s: float
    """Of any step, whatever it computes."""
    per_request_s: float
    """Each request that decodes."""
    per_context_token_s: float
    """Each token that a decode attends to."""
    per_prefill_token_s: float
    """Each prompt token that is computed."""
    request_delay_s: float = 0.0
    """From the client through the frontend to the core, and back with the first token."""

    def decode_s(self, num_decodes: int, num_context_tokens: int) -> float:
        """A step that decodes only; the contexts of all decodes are summed up."""
        return self.fixed_s + self.per_request_s * num_decodes + self.per_context_token_s * num_context_tokens

    def step_s(self, num_decodes: int, num_context_tokens: int, num_prefill_tokens: int) -> float:
        """Any step."""
        return self.decode_s(num_decodes, num_context_tokens) + self.per_prefill_token_s * num_prefill_tokens

    def run_s(self, num_steps: int, num_decodes: int, num_context_tokens: int) -> float:
        """So many decode steps one after the other, in which each request's context grows by a token a step."""
        growth = self.per_context_token_s * num_decodes
        return num_steps * self.decode_s(num_decodes, num_context_tokens) + growth * num_steps * (num_steps - 1) / 2

    def num_steps_begun(self, seconds: float, num_decodes: int, num_context_tokens: int) -> int:
        """How many steps of such a run have begun after so many seconds: at least one; none begins as another ends."""
        first, growth = self.decode_s(num_decodes, num_context_tokens), self.per_context_token_s * num_decodes
        if growth > 0:
            linear = first - growth / 2
            guess = (math.sqrt(linear * linear + 2 * growth * seconds) - linear) / growth
        else:
            guess = seconds / first
        count = max(1, math.ceil(guess))
        while count > 1 and self.run_s(count - 1, num_decodes, num_context_tokens) >= seconds:
            count -= 1
        while self.run_s(count, num_decodes, num_context_tokens) < seconds:
            count += 1
        return count


@dataclass(frozen=True, slots=True)
class Profile:
    """A device with a model: its step time and the size of its KV cache."""

    name: str
    description: str
    command: str
    """What measured it."""
    step_time: StepTime
    num_blocks: int
    max_model_len: int

    def with_blocks(self, num_blocks: int) -> "Profile":
        """The same with another KV cache."""
        return replace(self, num_blocks=num_blocks)


def load_profile(name: str) -> Profile:
    """A profile of the folder by its name, or of any JSON file by its path.

    Raises:
        ConfigError: there is none, or it is no profile.
    """
    path = Path(name) if name.endswith(".json") else PROFILES_DIR / f"{name}.json"
    try:
        fields = json.loads(path.read_text())
        return Profile(
            name=path.stem,
            description=fields["description"],
            command=fields["command"],
            step_time=StepTime(**fields["step_time"]),
            num_blocks=fields["num_blocks"],
            max_model_len=fields["max_model_len"],
        )
    except OSError as error:
        known = ", ".join(sorted(file.stem for file in PROFILES_DIR.glob("*.json")))
        raise ConfigError(f"--profile: {path} cannot be read ({error.strerror}); there are {known}") from error
    except (ValueError, LookupError, TypeError) as error:
        raise ConfigError(f"--profile: {path} is no profile: {type(error).__name__}: {error}") from error


def save_profile(profile: Profile, path: Path) -> None:
    """Write it as JSON; the name is that of the file."""
    step_time = {name: getattr(profile.step_time, name) for name in StepTime.__slots__}
    fields = {
        "description": profile.description,
        "command": profile.command,
        "step_time": step_time,
        "num_blocks": profile.num_blocks,
        "max_model_len": profile.max_model_len,
    }
    path.write_text(json.dumps(fields, indent=2) + "\n")
