"""What a request may say about the rendering of its conversation; `chat_template.py` follows it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class RenderOptions:
    """How a conversation is written. The bodies make it of their fields; `dataclasses.replace` adds the tools."""

    tools: list[dict[str, Any]] | None = None
    """Only for templates that know tools."""
    documents: list[dict[str, Any]] | None = None
    """Only for templates that know documents."""
    add_generation_prompt: bool = True
    """End with what an answer follows."""
    continue_final_message: bool = False
    """End inside the last message, whose text is left open."""
    reasoning_effort: str | None = None
    """Given to templates that know it, no matter to others."""
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Other variables of the template, by name."""
