"""What was said, and how it is to be answered: the body of the next request, and the file of `/save` and `/load`.

Invariant: `messages` alternates between user and assistant and ends with an answer, or is empty; a question without an
answer is kept apart, so that the next one does not follow a question.
"""

import json
from pathlib import Path
from typing import Any

from ipc.errors import ConfigError

Message = dict[str, str]
_ROLES = ("system", "user", "assistant")


class Conversation:
    """One conversation with one model."""

    def __init__(self, model: str, system: str = "", sampling: dict[str, Any] | None = None) -> None:
        self.model = model
        self.system = system
        self.sampling = dict(sampling or {})
        self.messages: list[Message] = []
        self._unanswered = ""

    @property
    def num_turns(self) -> int:
        """Questions that were answered."""
        return len(self.messages) // 2

    def body(self, question: str) -> dict[str, Any]:
        """The request for the answer to a question."""
        before: list[Message] = [{"role": "system", "content": self.system}] if self.system else []
        messages = [*before, *self.messages, {"role": "user", "content": question}]
        options = {"stream_options": {"include_usage": True}}
        return {**options, **self.sampling, "model": self.model, "messages": messages}

    def keep(self, question: str, answer: str) -> None:
        """Take in an answer, or the part of it that there is; one without text is as if it had not been asked for."""
        if not answer:
            self._unanswered = question
            return
        self._unanswered = ""
        self.messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]

    def take_back(self) -> str:
        """Forget the last answer and return its question; empty where there is none."""
        if self._unanswered:
            return self._unanswered
        if not self.messages:
            return ""
        question = self.messages[-2]["content"]
        del self.messages[-2:]
        return question

    def reset(self) -> None:
        """Forget what was said."""
        self.messages.clear()
        self._unanswered = ""

    def save(self, path: Path) -> None:
        """Write it as JSON; raises `ConfigError`."""
        system: list[Message] = [{"role": "system", "content": self.system}] if self.system else []
        values = {"model": self.model, "sampling": self.sampling, "messages": [*system, *self.messages]}
        text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
        try:
            path.write_text(text, encoding="utf-8", errors="replace")
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from error

    def load(self, path: Path) -> None:
        """Take in messages and sampling of a file; the model stays. Nothing is changed where the file is wrong.

        Raises:
            ConfigError: it cannot be read, or is no conversation.
        """
        try:
            text = path.read_bytes()
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{path} is no JSON: {error}") from error
        messages = values.get("messages") if isinstance(values, dict) else values
        sampling = values.get("sampling", {}) if isinstance(values, dict) else {}
        if not isinstance(messages, list) or not all(map(_is_message, messages)) or not isinstance(sampling, dict):
            raise ConfigError(f"{path} is no conversation: it needs messages with a role and a content")
        system = [message["content"] for message in messages if message["role"] == "system"]
        said = [
            {name: message[name] for name in ("role", "content")} for message in messages if message["role"] != "system"
        ]
        roles = [message["role"] for message in said]
        if roles != ["user", "assistant"] * (len(roles) // 2):
            raise ConfigError(
                f"{path} is no conversation: user and assistant must take turns, and the last be an answer"
            )
        self.reset()
        self.messages, self.sampling, self.system = said, sampling, "\n\n".join(system)


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and value.get("role") in _ROLES and isinstance(value.get("content"), str)
