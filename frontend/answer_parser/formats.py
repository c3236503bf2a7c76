"""How a model writes its tool calls, found in its chat template: nobody has to name a parser.

A template that shows the model a form of calls contains that form. One that knows no tools gets hermes' form, which
`tool_prompt.py` describes to the model. A tokenizer's `response_template` is not read: its regular expressions and
transformations say how to read an answer, and nothing to make a grammar of, so that no call could be enforced.
Next: `tagged_calls.py`, `bare_calls.py`, `python_calls.py`.
"""

import re
from collections.abc import Collection
from enum import Enum

from frontend.answer_parser.bare_calls import JsonCallParser
from frontend.answer_parser.python_calls import PythonCallParser
from frontend.answer_parser.reasoning import END_OF_THINK_TAG, THINK_TAG
from frontend.answer_parser.tagged_calls import ARGUMENTS_TAG, HermesSection, MistralSection, TaggedCallParser
from frontend.answer_parts import AnswerParser

_PYTHON_EXAMPLE = re.compile(r"\[\w*func\w*\(")
_LLAMA_EXAMPLE = re.compile(r"""["']parameters["']\s*:""")


class ToolFormat(Enum):
    """A way to write calls; the values are its tags, which may be special tokens of the tokenizer."""

    HERMES = ("<tool_call>", "</tool_call>")
    """`<tool_call>{"name": …, "arguments": {…}}</tool_call>`, also qwen's."""
    MISTRAL = ("[TOOL_CALLS]",)
    """`[TOOL_CALLS] [{"name": …, "arguments": {…}}, …]`."""
    MISTRAL_NAMED = ("[TOOL_CALLS]", ARGUMENTS_TAG)
    """`[TOOL_CALLS]name[ARGS]{…}`, mistral's since 2025."""
    LLAMA_JSON = ("<|python_tag|>",)
    """`{"name": …, "parameters": {…}}`, and nothing else."""
    PYTHON = ()
    """`[name(key=value), …]`, and nothing else."""

    @property
    def tags(self) -> tuple[str, ...]:
        """Texts that mark a call."""
        tags: tuple[str, ...] = self.value
        return tags


def tool_format(template: str) -> ToolFormat:
    """The form of calls in a chat template."""
    if "[TOOL_CALLS]" in template:
        return ToolFormat.MISTRAL_NAMED if ARGUMENTS_TAG in template else ToolFormat.MISTRAL
    if "<tool_call>" in template:
        return ToolFormat.HERMES
    if _PYTHON_EXAMPLE.search(template):
        return ToolFormat.PYTHON
    if "<|python_tag|>" in template or _LLAMA_EXAMPLE.search(template):
        return ToolFormat.LLAMA_JSON
    return ToolFormat.HERMES


def call_parser(form: ToolFormat, names: Collection[str]) -> AnswerParser:
    """A parser for one answer; `names` are those of the tools."""
    match form:
        case ToolFormat.HERMES:
            return TaggedCallParser(form.tags[0], HermesSection)
        case ToolFormat.MISTRAL | ToolFormat.MISTRAL_NAMED:
            return TaggedCallParser(form.tags[0], MistralSection)
        case ToolFormat.LLAMA_JSON:
            return JsonCallParser(names)
        case ToolFormat.PYTHON:
            return PythonCallParser(names)


def may_think(template: str) -> bool:
    """True if answers to prompts of this template may begin with reasoning."""
    return THINK_TAG in template or END_OF_THINK_TAG in template


def ends_in_reasoning(prompt_end: str) -> bool:
    """True if a prompt that ends so has opened the reasoning of the answer."""
    return prompt_end.rstrip().endswith(THINK_TAG)
