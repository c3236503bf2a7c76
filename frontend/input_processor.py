"""From a checked body to what the engine takes: token ids within the context, and sampling parameters in range.

Called by the endpoints for each request, after `FrontendState.check_admission`. Invariant: what leaves here would also
be accepted by the core's own checks; every refusal names the field.
Next: `generation.py` submits the result.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from frontend.answer_parser.tool_prompt import with_tool_texts
from frontend.fill_in_middle import fill_prompt
from frontend.openai.inputs import split_inputs
from frontend.openai.protocol import ChatCompletionRequest, ChatMessage, CompletionRequest, GenerationBody
from frontend.openai.reasoning_effort import with_effort
from frontend.openai.tool_calls import call_grammar, shown_tools
from frontend.render_options import RenderOptions
from frontend.sampling import fitted, nth_seed, sampling_params_of
from frontend.state import ServedModel
from frontend.template_meter import TemplateBudgetError
from frontend.tokenizer import INLINE_CHARS
from ipc.errors import ContextLengthError, InvalidRequestError
from ipc.sampling_params import MAX_STOP_TOKEN_IDS, NO_LOGPROBS, SamplingParams
from ipc.structured_output import StructuredOutput

DEFAULT_COMPLETION_TOKENS = 16
"""OpenAI's default of `max_tokens` in text completions."""
INLINE_PARTS = 100
"""Conversations of more messages and parts are rendered in a thread, so that nobody waits for them."""
INLINE_UNITS = 20_000
"""Work that a template may do in the event loop; a few milliseconds."""
INLINE_TOOLS = 8
"""The grammar of more tools is written in a thread, so that nobody waits for it."""
MAX_CUT_TOKENS = 2**18
"""Longest text that is tokenized only to be cut off."""
MAX_REQUESTS_PER_BODY = 1024
"""Most answers (prompts times `n` or `best_of`) of one body."""


@dataclass(frozen=True, slots=True)
class EngineInput:
    """One request for the engine."""

    prompt_token_ids: list[int]
    sampling_params: SamplingParams
    prompt_text: str | None = None
    """The text that the ids were made of, where they are all of it and nothing else."""


def check_num_answers(body: GenerationBody) -> None:
    """Raise `InvalidRequestError` for more answers than one body may ask for, however empty the queue is."""
    if body.num_answers > MAX_REQUESTS_PER_BODY:
        raise InvalidRequestError(
            f"prompts times answers must not exceed {MAX_REQUESTS_PER_BODY}",
            param=_answers_param(body),
        )


def _answers_param(body: GenerationBody) -> str:
    if body.answers_per_prompt > body.n:
        return "best_of"
    return "n" if body.n > 1 else "prompt"


async def chat_inputs(model: ServedModel, body: ChatCompletionRequest) -> list[EngineInput]:
    """The `n` requests of a chat completion: one prompt, one seed each."""
    params = await sampling_params_of(model, body)
    text = await chat_text(model, body)
    prompt = await model.tokenizer.encode(
        text, add_special_tokens=body.add_special_tokens, max_tokens=_max_text_tokens(model, body), param="messages"
    )
    prompt = _checked_prompt(model, _truncated(model, body, prompt), "messages")
    params = _with_answer_ends(model, params)
    if body.may_call_tools:
        params = replace(params, structured_output=await _call_grammar(model, body, prompt))
    prompt_text = text if body.truncate_prompt_tokens is None else None
    default = model.max_model_len
    fitting = fitted(params, model, body, len(prompt), param="messages", default_max_tokens=default)
    return _fan_out(body, prompt, fitting, prompt_text)


def _with_answer_ends(model: ServedModel, params: SamplingParams) -> SamplingParams:
    """The same, ending where the model begins the next section of the conversation."""
    ends = [token_id for token_id in model.tokenizer.answer_ends.token_ids if token_id < model.vocab_size]
    if not ends or params.ignore_eos:
        return params
    return replace(params, stop_token_ids=(*params.stop_token_ids, *ends)[:MAX_STOP_TOKEN_IDS])


async def _call_grammar(model: ServedModel, body: ChatCompletionRequest, prompt: list[int]) -> StructuredOutput:
    if len(body.tools) > INLINE_TOOLS:
        return await asyncio.to_thread(call_grammar, model, body, prompt)
    return call_grammar(model, body, prompt)


async def completion_inputs(
    model: ServedModel, body: CompletionRequest, default_max_tokens: int = DEFAULT_COMPLETION_TOKENS
) -> list[EngineInput]:
    """The requests of a text completion: `n` (or `best_of`) for each prompt, prompt by prompt."""
    params = await sampling_params_of(model, body)
    inputs: list[EngineInput] = []
    for prompt in split_inputs(body.prompt):
        ids = await _completion_prompt(model, body, prompt)
        prompt_text = prompt if isinstance(prompt, str) and body.truncate_prompt_tokens is None else None
        fitting = fitted(params, model, body, len(ids), param="prompt", default_max_tokens=default_max_tokens)
        inputs += _fan_out(body, ids, fitting, prompt_text)
        await asyncio.sleep(0)  # others go on between prompts
    return inputs


async def _completion_prompt(model: ServedModel, body: CompletionRequest, prompt: str | list[int]) -> list[int]:
    if isinstance(prompt, str):
        ids = await model.tokenizer.encode(
            prompt,
            add_special_tokens=body.add_special_tokens,
            max_tokens=_max_text_tokens(model, body),
            param="prompt",
        )
        ids = _truncated(model, body, ids)
    else:
        ids = _checked_prompt(model, _truncated(model, body, prompt), "prompt")
        model.check_token_ids(ids, "prompt")
    if body.suffix:
        suffix = await model.tokenizer.encode(
            body.suffix, add_special_tokens=False, max_tokens=model.max_model_len, param="suffix"
        )
        ids = fill_prompt(model.tokenizer, ids, suffix)
    return _checked_prompt(model, ids, "prompt")


async def chat_text(model: ServedModel, body: ChatCompletionRequest) -> str:
    """The conversation of a body, with its tools."""
    options = with_effort(body.render_options, model.tokenizer.chat_template, body.reasoning_effort)
    return await render_chat_text(model, body.messages, replace(options, tools=shown_tools(body)))


async def render_chat_text(model: ServedModel, messages: Sequence[ChatMessage], options: RenderOptions) -> str:
    """A conversation in the model's chat template; a template that knows no tools gets them as text.

    A small one is rendered here, within a budget of work; what is large, or needs more, in a thread, one at a time.
    """
    template = model.tokenizer.chat_template
    has_tools = bool(options.tools) or any(message.tool_calls or message.role == "tool" for message in messages)
    if has_tools and not template.knows_tools:
        messages, options = with_tool_texts(messages, options.tools or []), replace(options, tools=None)
    if _is_small(messages, options):
        try:
            return template.render(messages, options, max_units=INLINE_UNITS)
        except TemplateBudgetError:
            pass  # rendered again below
    render = partial(template.render, messages, options)
    return await asyncio.get_running_loop().run_in_executor(model.tokenizer.render_thread, render)


def _is_small(messages: Sequence[ChatMessage], options: RenderOptions) -> bool:
    """False for what is large, and for what may hold anything and is not looked into: tools, documents, tool calls."""
    if len(messages) > INLINE_PARTS or options.tools or options.documents:
        return False
    num_parts = num_chars = 0
    for message in messages:
        if message.tool_calls:
            return False
        texts: list[str | None] = [message.reasoning_content, message.reasoning, message.refusal]
        if isinstance(message.content, list):
            texts += [part.text or part.refusal for part in message.content]
        else:
            texts.append(message.content)
        num_parts += len(texts) - 3
        num_chars += sum(len(text) for text in texts if text is not None)
    return num_parts <= INLINE_PARTS and num_chars <= INLINE_CHARS


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
    body: GenerationBody, prompt: list[int], params: SamplingParams, prompt_text: str | None = None
) -> list[EngineInput]:
    """The requests for one prompt, with consecutive seeds; only the first reports on the prompt, which they share."""
    others = replace(params, num_prompt_logprobs=NO_LOGPROBS)
    return [
        EngineInput(prompt, replace(others if index else params, seed=nth_seed(params.seed, index)), prompt_text)
        for index in range(body.answers_per_prompt)
    ]


def _truncated(model: ServedModel, body: GenerationBody, ids: list[int]) -> list[int]:
    """The last tokens of a prompt, as many as `truncate_prompt_tokens` says."""
    limit = body.truncate_prompt_tokens
    if limit is None:
        return ids
    return last_tokens(model, ids, limit, max(1, model.max_model_len - max(1, body.num_max_tokens or 1)))


def last_tokens(model: ServedModel, ids: list[int], limit: int, most: int) -> list[int]:
    """The last `limit` tokens, for -1 the last `most`; raises `InvalidRequestError` for more than the context."""
    if limit > model.max_model_len:
        raise InvalidRequestError(
            f"truncate_prompt_tokens must not exceed the model's context of {model.max_model_len} tokens",
            param="truncate_prompt_tokens",
        )
    return ids[-(most if limit == -1 else limit) :]


def _max_text_tokens(model: ServedModel, body: GenerationBody) -> int:
    """Texts that must have more tokens are refused before they are tokenized."""
    return max_text_tokens(model, is_cut=body.truncate_prompt_tokens is not None)


def max_text_tokens(model: ServedModel, *, is_cut: bool) -> int:
    """The same for any text, which may be cut off before it is used."""
    return max(model.max_model_len, MAX_CUT_TOKENS) if is_cut else model.max_model_len
