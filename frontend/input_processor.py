"""From a checked body to what the engine takes: token ids within the context, and sampling parameters in range.

Called by the endpoints for each request, after `FrontendState.check_admission`. Invariant: what leaves here would also
be accepted by the core's own checks; every refusal names the field.
Next: `generation.py` submits the result.
"""

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace

from frontend.openai.inputs import split_inputs
from frontend.openai.protocol import ChatCompletionRequest, ChatMessage, CompletionRequest, GenerationBody
from frontend.state import ServedModel
from ipc.errors import ContextLengthError, InvalidRequestError
from ipc.sampling_params import MAX_SEED, SamplingParams

DEFAULT_COMPLETION_TOKENS = 16
"""OpenAI's default of `max_tokens` in text completions."""
INLINE_PARTS = 100
"""Conversations of more messages and parts are rendered in a thread, so that nobody waits for them."""
MAX_REQUESTS_PER_BODY = 1024
"""Most answers (prompts times `n`) of one body."""


@dataclass(frozen=True, slots=True)
class EngineInput:
    """One request for the engine."""

    prompt_token_ids: list[int]
    sampling_params: SamplingParams


def check_num_answers(body: GenerationBody) -> None:
    """Raise `InvalidRequestError` for more answers than one body may ask for, however empty the queue is."""
    if body.num_answers > MAX_REQUESTS_PER_BODY:
        raise InvalidRequestError(
            f"prompts times n must not exceed {MAX_REQUESTS_PER_BODY}", param="n" if body.n > 1 else "prompt"
        )


async def chat_inputs(model: ServedModel, body: ChatCompletionRequest) -> list[EngineInput]:
    """The `n` requests of a chat completion: one prompt, one seed each."""
    prompt = await render_chat(
        model,
        body.messages,
        add_generation_prompt=body.add_generation_prompt,
        add_special_tokens=body.add_special_tokens,
        max_tokens=model.max_model_len,
    )
    return _fan_out(model, body, prompt, param="messages", default_max_tokens=model.max_model_len)


async def completion_inputs(model: ServedModel, body: CompletionRequest) -> list[EngineInput]:
    """The requests of a text completion, `n` for each prompt, prompt by prompt."""
    inputs: list[EngineInput] = []
    for prompt in split_inputs(body.prompt):
        ids = await prompt_token_ids(model, prompt, param="prompt", add_special_tokens=body.add_special_tokens)
        inputs += _fan_out(model, body, ids, param="prompt", default_max_tokens=DEFAULT_COMPLETION_TOKENS)
        await asyncio.sleep(0)  # others go on between prompts
    return inputs


async def prompt_token_ids(
    model: ServedModel, prompt: str | list[int], *, param: str, add_special_tokens: bool
) -> list[int]:
    """Token ids of one prompt, of which there is at least one and at most what the context holds."""
    if isinstance(prompt, str):
        ids = await model.tokenizer.encode(
            prompt, add_special_tokens=add_special_tokens, max_tokens=model.max_model_len, param=param
        )
        return _checked_prompt(model, ids, param)
    ids = _checked_prompt(model, prompt, param)
    model.check_token_ids(ids, param)
    return ids


async def render_chat(
    model: ServedModel,
    messages: Sequence[ChatMessage],
    *,
    add_generation_prompt: bool,
    add_special_tokens: bool,
    max_tokens: int | None,
) -> list[int]:
    """Token ids of a conversation in the model's chat template."""
    text = await render_chat_text(model, messages, add_generation_prompt=add_generation_prompt)
    return await model.tokenizer.encode(
        text, add_special_tokens=add_special_tokens, max_tokens=max_tokens, param="messages"
    )


async def render_chat_text(model: ServedModel, messages: Sequence[ChatMessage], *, add_generation_prompt: bool) -> str:
    """A conversation in the model's chat template."""
    template = model.tokenizer.chat_template
    if sum(map(_num_parts, messages)) > INLINE_PARTS:
        return await asyncio.to_thread(template.render, messages, add_generation_prompt=add_generation_prompt)
    return template.render(messages, add_generation_prompt=add_generation_prompt)


def _num_parts(message: ChatMessage) -> int:
    """What a message costs to render; tool calls may hold anything and count as too much."""
    if message.tool_calls is not None:
        return INLINE_PARTS + 1
    return 1 + len(message.content) if isinstance(message.content, list) else 1


def _checked_prompt(model: ServedModel, ids: list[int], param: str) -> list[int]:
    if not ids:
        raise InvalidRequestError(f"{param}: no tokens remain of this text", param=param)
    if len(ids) >= model.max_model_len:
        raise ContextLengthError(
            f"This model's maximum context length is {model.max_model_len} tokens, but the prompt has {len(ids)} "
            "and at least one more is needed for the answer.",
            param=param,
        )
    return ids


def _fan_out(
    model: ServedModel, body: GenerationBody, prompt: list[int], *, param: str, default_max_tokens: int
) -> list[EngineInput]:
    """`n` requests with the same prompt and consecutive seeds."""
    ids = _checked_prompt(model, prompt, param)
    params = _sampling_params(model, body, len(ids), param=param, default_max_tokens=default_max_tokens)
    return [EngineInput(ids, replace(params, seed=_nth_seed(params.seed, index))) for index in range(body.n)]


def _sampling_params(
    model: ServedModel, body: GenerationBody, num_prompt_tokens: int, *, param: str, default_max_tokens: int
) -> SamplingParams:
    remaining = model.max_model_len - num_prompt_tokens
    max_tokens = body.num_max_tokens
    if max_tokens is None:
        max_tokens = min(default_max_tokens, remaining)
    elif max_tokens > remaining:
        raise ContextLengthError(
            f"This model's maximum context length is {model.max_model_len} tokens, but {num_prompt_tokens} of the "
            f"prompt and {max_tokens} of the answer were asked for ({num_prompt_tokens + max_tokens} in all).",
            param=param,
        )
    params = SamplingParams(
        max_tokens=max_tokens,
        min_tokens=body.min_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=0 if body.top_k == -1 else body.top_k,
        min_p=body.min_p,
        seed=body.seed if body.seed is not None else secrets.randbits(63),
        stop_token_ids=tuple(body.stop_token_ids),
        ignore_eos=body.ignore_eos,
    )
    params.validate(model.vocab_size)
    return params


def _nth_seed(seed: int, index: int) -> int:
    """`seed + index`, wrapped around into 64 bits."""
    return (seed + index + MAX_SEED + 1) % 2**64 - MAX_SEED - 1
