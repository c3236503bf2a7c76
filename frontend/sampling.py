"""From a checked body to sampling parameters in range.

Called by `frontend/input_processor.py`: once for a body, before anything is tokenized, then for each prompt.
Invariant: what leaves here would also be accepted by the core's own checks, and every refusal names the field.
Next: `ipc/sampling_params.py`, the ranges.
"""

import asyncio
import secrets
from dataclasses import replace

from frontend.openai.grammars import grammar_of
from frontend.openai.protocol import MAX_INT32, GenerationBody
from frontend.state import ServedModel
from frontend.tokenizer import INLINE_CHARS
from ipc.errors import ContextLengthError
from ipc.sampling_params import MAX_SEED, NO_LOGPROBS, SamplingParams, TokenBias, check_range


async def sampling_params_of(model: ServedModel, body: GenerationBody) -> SamplingParams:
    """What a body asks of the sampler, whatever the prompt; `fitted` gives it the length of the answer.

    Raises:
        InvalidRequestError: a field is out of range.
    """
    prompt_logprobs = [number for number in (body.prompt_logprobs, body.num_echoed_logprobs) if number is not None]
    params = SamplingParams(
        max_tokens=MAX_INT32,
        min_tokens=body.min_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=0 if body.top_k == -1 else body.top_k,
        min_p=body.min_p,
        seed=body.seed if body.seed is not None else secrets.randbits(63),
        stop_token_ids=tuple(body.stop_token_ids),
        ignore_eos=body.ignore_eos,
        frequency_penalty=body.frequency_penalty,
        presence_penalty=body.presence_penalty,
        repetition_penalty=body.repetition_penalty,
        logit_bias=tuple(TokenBias(token_id, bias) for token_id, bias in body.logit_bias.items()),
        allowed_token_ids=tuple(body.allowed_token_ids or ()),
        bad_words_token_ids=await _bad_words_token_ids(model, body.bad_words),
        num_logprobs=body.num_logprobs if body.num_logprobs is not None else NO_LOGPROBS,
        num_prompt_logprobs=max(prompt_logprobs, default=NO_LOGPROBS),
        structured_output=grammar_of(body),
        top_n_sigma=body.top_n_sigma,
    )
    params.validate(model.vocab_size)
    return params


def fitted(
    params: SamplingParams,
    model: ServedModel,
    body: GenerationBody,
    num_prompt_tokens: int,
    *,
    param: str,
    default_max_tokens: int,
) -> SamplingParams:
    """The parameters with `max_tokens` for this prompt; `param` names the field that the prompt came from.

    At least 1: the core generates one token also where none is wanted (`TextOptions.is_prompt_only`).

    Raises:
        ContextLengthError: prompt and answer together do not fit.
        InvalidRequestError: `min_tokens` is more than that.
    """
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
    check_range("min_tokens", params.min_tokens, 0, max_tokens)
    return replace(params, max_tokens=max(1, max_tokens))


def nth_seed(seed: int, index: int) -> int:
    """`seed + index`, wrapped around into 64 bits."""
    return (seed + index + MAX_SEED + 1) % 2**64 - MAX_SEED - 1


async def _bad_words_token_ids(model: ServedModel, words: list[str]) -> tuple[tuple[int, ...], ...]:
    """Each word as it is written at the beginning of a text and behind a space, which are different tokens."""
    if not words:
        return ()
    variants = [variant for word in words for variant in (word.lstrip(), " " + word.lstrip())]
    encode = model.tokenizer.encode_several
    is_long = sum(map(len, variants)) > INLINE_CHARS
    encoded = await asyncio.to_thread(encode, variants) if is_long else encode(variants)
    return tuple(dict.fromkeys(tuple(ids) for ids in encoded if ids))
