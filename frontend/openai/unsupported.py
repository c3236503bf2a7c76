"""Fields of OpenAI's and vLLM's APIs that are known here but not honoured: the one place that lists them.

A field with a value that changes nothing is accepted, any other value is refused, so that no option is silently
ignored. When a feature arrives, its line moves from here to `protocol`; a field that one endpoint honours stays here
for the others. Called by `frontend/request_body.py`.
"""

from collections.abc import Container, Mapping
from typing import Any, NamedTuple

from ipc.errors import UnsupportedParameterError


class Unsupported(NamedTuple):
    """A field that is refused unless its value asks for nothing."""

    neutral: tuple[Any, ...]
    """Values that ask for nothing; null always does."""
    meaning: str
    """What it would do; its line in `docs/api.md`."""


UNSUPPORTED_PARAMETERS: dict[str, Unsupported] = {
    # the distribution
    "length_penalty": Unsupported((1,), "beam search"),
    "logits_processors": Unsupported(([],), "code of the caller's in the sampler"),
    "use_beam_search": Unsupported((False,), "beam search"),
    "best_of": Unsupported((1,), "more answers than are returned"),
    "top_logprobs": Unsupported((0,), "best tokens at each position; completions have `logprobs` for it"),
    # the form of the answer
    "guided_json": Unsupported((), "an older name of `structured_outputs`"),
    "guided_regex": Unsupported((), "an older name of `structured_outputs`"),
    "guided_choice": Unsupported((), "an older name of `structured_outputs`"),
    "guided_grammar": Unsupported((), "an older name of `structured_outputs`"),
    "structural_tag": Unsupported((), "a grammar for parts of the answer"),
    "tools": Unsupported(([],), "functions that the model may call"),
    "tool_choice": Unsupported(("none", "auto"), "which function is called"),
    "functions": Unsupported(([],), "an older name of `tools`"),
    "function_call": Unsupported(("none", "auto"), "an older name of `tool_choice`"),
    "echo": Unsupported((False,), "the answer begins with the prompt"),
    "suffix": Unsupported(("",), "what comes after the completion"),
    "modalities": Unsupported((["text"],), "answers that are not text"),
    "audio": Unsupported((), "spoken answers"),
    "prediction": Unsupported((), "a text that the answer will resemble"),
    "web_search_options": Unsupported((), "search of the web"),
    "reasoning_effort": Unsupported(("none",), "how long a model thinks"),
    "verbosity": Unsupported(("medium",), "how long the answer is"),
    "spaces_between_special_tokens": Unsupported((True,), "spaces between special tokens"),
    "dimensions": Unsupported((), "shorter embeddings"),
    # the prompt
    "chat_template": Unsupported((), "a template of the caller's"),
    "chat_template_kwargs": Unsupported(({},), "variables of the template"),
    "continue_final_message": Unsupported((False,), "the answer goes on in the last message"),
    "documents": Unsupported(([],), "documents for the template"),
    "prompt_embeds": Unsupported((), "embeddings in place of a prompt"),
    "truncate_prompt_tokens": Unsupported((), "cutting off the beginning of a prompt"),
    "mm_processor_kwargs": Unsupported(({},), "options for images"),
    # the service
    "max_completion_tokens": Unsupported((), "`max_tokens` of chats"),
    "store": Unsupported((False,), "keeping the answer"),
    "kv_transfer_params": Unsupported((), "computing the prompt on another machine"),
}

HARMLESS_PARAMETERS: dict[str, str] = {
    "metadata": "for the caller's own use",
    "parallel_tool_calls": "only says what tools may do",
    "prompt_cache_key": "the prefix cache needs no hint",
    "prompt_cache_retention": "the prefix cache needs no hint",
    "request_id": "the answer has an id of its own",
    "safety_identifier": "nobody is watched",
}
"""Known fields that cannot change an answer of this server, and why, where an endpoint does not read them."""


def check_supported(
    values: Mapping[str, Any], honoured: Container[str], table: Mapping[str, Unsupported] = UNSUPPORTED_PARAMETERS
) -> None:
    """Refuse known fields with a value that would change the answer, except those that the endpoint honours.

    Raises:
        UnsupportedParameterError: with `param` naming the first such field.
    """
    for name, value in values.items():
        unsupported = table.get(name)
        if unsupported is None or name in honoured or value is None:
            continue
        if not any(_is_same(value, harmless) for harmless in unsupported.neutral):
            raise UnsupportedParameterError(f"{name} is not supported with this value.", param=name)


def _is_same(value: object, harmless: object) -> bool:
    """Equality that does not take True for 1 or False for 0."""
    return value == harmless and isinstance(value, bool) == isinstance(harmless, bool)
