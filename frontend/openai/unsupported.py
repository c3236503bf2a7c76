"""Fields of OpenAI's and vLLM's APIs that are known here but not honoured: the one place that lists them.

A field with a value that changes nothing is accepted, any other value is refused, so that no option is silently
ignored. When a feature arrives, its line moves from here to `protocol`. Called by `frontend/request_body.py`.
"""

from collections.abc import Mapping
from typing import Any

from ipc.errors import UnsupportedParameterError

UNSUPPORTED_PARAMETERS: dict[str, tuple[Any, ...]] = {
    # the distribution
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "length_penalty": (1,),
    "logit_bias": ({},),
    "bad_words": ([],),
    "allowed_token_ids": (),
    "logits_processors": ([],),
    "use_beam_search": (False,),
    "best_of": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "prompt_logprobs": (),
    # the form of the answer
    "response_format": ({"type": "text"},),
    "structured_outputs": ({},),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "structural_tag": (),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "echo": (False,),
    "suffix": ("",),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
    "spaces_between_special_tokens": (True,),
    "dimensions": (),
    # the prompt
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "continue_final_message": (False,),
    "documents": ([],),
    "prompt_embeds": (),
    "truncate_prompt_tokens": (),
    "mm_processor_kwargs": ({},),
    # the service
    "service_tier": ("auto", "default"),
    "store": (False,),
    "kv_transfer_params": (),
}
"""Name → values that ask for nothing; null always does."""

HARMLESS_PARAMETERS = frozenset(
    {"metadata", "parallel_tool_calls", "prompt_cache_key", "prompt_cache_retention", "safety_identifier", "request_id"}
)
"""Known fields that cannot change an answer of this server."""


def check_supported(values: Mapping[str, Any], honoured: set[str]) -> None:
    """Refuse known fields with a value that would change the answer, except those that the endpoint honours.

    Raises:
        UnsupportedParameterError: with `param` naming the first such field.
    """
    for name, value in values.items():
        neutral = UNSUPPORTED_PARAMETERS.get(name)
        if neutral is None or name in honoured or value is None:
            continue
        if not any(_is_same(value, harmless) for harmless in neutral):
            raise UnsupportedParameterError(f"{name} is not supported with this value.", param=name)


def _is_same(value: object, harmless: object) -> bool:
    """Equality that does not take True for 1 or False for 0."""
    return value == harmless and isinstance(value, bool) == isinstance(harmless, bool)
