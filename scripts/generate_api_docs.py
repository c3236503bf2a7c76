#!/usr/bin/env python3
"""Usage: scripts/generate_api_docs.py [--check]

Writes docs/api.md from the request bodies (frontend/openai/protocol and those of the other APIs) and their lists of
fields that are known but not honoured (frontend/openai/unsupported.py for OpenAI's). With --check it only compares, and
exits with 1 where the file is stale.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
from pydantic_core import PydanticUndefined

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from frontend.anthropic_api.protocol import CountTokensRequest, MessagesRequest  # noqa: E402
from frontend.batch_api.protocol import BatchQuery, BatchRequest, FileQuery, FileUpload  # noqa: E402
from frontend.openai.protocol import (  # noqa: E402
    Body,
    ChatCompletionRequest,
    CompletionRequest,
    DetokenizeRequest,
    EmbeddingRequest,
    RerankRequest,
    ScoreRequest,
    TokenizeRequest,
)
from frontend.responses_api.protocol import ResponsesRequest  # noqa: E402

DOCUMENT = ROOT / "docs" / "api.md"
ENDPOINTS: dict[str, type[Body]] = {
    "POST /v1/chat/completions": ChatCompletionRequest,
    "POST /v1/completions": CompletionRequest,
    "POST /v1/responses": ResponsesRequest,
    "POST /v1/messages": MessagesRequest,
    "POST /v1/messages/count_tokens": CountTokensRequest,
    "POST /v1/embeddings": EmbeddingRequest,
    "POST /v1/score": ScoreRequest,
    "POST /v1/rerank": RerankRequest,
    "POST /v1/files": FileUpload,
    "GET /v1/files": FileQuery,
    "POST /v1/batches": BatchRequest,
    "GET /v1/batches": BatchQuery,
    "POST /tokenize": TokenizeRequest,
    "POST /detokenize": DetokenizeRequest,
}

INTRODUCTION = """\
# The API: which fields are honoured

Written by `scripts/generate_api_docs.py` from the code; a test compares them.

A field is honoured or refused, never accepted and ignored. Scalars are strict: `true` is not 1, `"1"` is not 1, 1 may
stand for 1.0; NaN and Infinity are not JSON (400 `invalid_json`). An explicit null counts as absent. What is wrong is
400, with the field as `param` and a `code`: `invalid_type`, `invalid_value`, `missing_required_parameter`,
`context_length_exceeded`, `invalid_grammar`, `invalid_schema`, `unsupported_parameter`. Fields that nobody knows are
accepted and named in the header `X-Ignored-Params`, or refused ([access.md](access.md) has this and all limits).

## What the answers say

- **Log-probabilities** are those of the raw logits, before grammars, biases and temperature. There is one entry for
  each token that `completion_tokens` counts, so also for the token that ended the answer; -9999 stands for minus
  infinity. A token is spelled as its text, as `bytes:\\xf0\\x9f` where its bytes are no text. `top_logprobs` of a
  completion have one number for each text: of several tokens with the same text the most probable one counts.
- A whole answer keeps 1,048,576 log-probabilities at most, counted before it begins as tokens times best tokens; what
  could need more is refused. Streams keep none.
- **`text_offset`** counts characters of the returned text, which begins with the prompt where `echo` is set. A token
  behind a stop string, or one that is not shown, has the offset of the end.
- **In a stream** a token comes with the chunk that completes its text: what could still become a stop string, or ends
  inside a character, waits with its tokens. A token that a stop string cuts is reported whole, with the last text.
- **`max_tokens: 0`** (completions) generates nothing that is shown or counted; with `echo` and `logprobs` it scores the
  prompt.
- **`response_format`** with `json_schema`: with `strict: true` a schema that cannot be enforced is refused with 400
  `invalid_schema`; else keywords that cannot be enforced are left out. Schemas have at most 64 KiB, 64 levels and 1,000
  properties.
- **Tools.** How a model writes calls is found in its chat template (hermes and qwen, llama, mistral, Python's syntax);
  a template without tools gets them as a system message in hermes' form. With `tool_choice: "none"` the model does not
  see the tools. `required`, a named function and `allowed_tools` with mode `required` make the answer nothing but calls
  whose arguments are valid; a schema that cannot be enforced is refused with 400 `invalid_schema` and `param`
  `tools.N.function.parameters`. With `auto` the text is free, and a call that begins in it is enforced; without
  `strict` keywords that cannot be enforced are left out. At most 128 tools, 16 calls in one answer, one where
  `parallel_tool_calls` is false, a function is named or the model writes llama's form; the grammar of all tools has at
  most 64 KiB, descriptions not counted. `finish_reason` is `tool_calls` where a call begins and nothing cuts the answer
  off; what was cut off is in the answer as far as it came.
- **Reasoning** of models whose template has `<think>` comes as `reasoning_content` and, the same, as `reasoning`; its
  tokens are counted in `completion_tokens_details`. `include_reasoning: false` leaves it out.
  `reasoning_effort` is given to templates that read it; `none` also switches off the thinking of those that have
  `enable_thinking`. Any other effort is refused.
- **`service_tier`**: `flex` adds 10 to `priority`, `priority` subtracts 10; `auto` is `default`.
- **`timings`** (llama.cpp's name) say how long an answer took, in milliseconds: `queue_ms` until it was first
  scheduled, `prefill_ms` from there to the first token, `ttft_ms` both together, `decode_ms` from there to its end;
  `decode_tokens_per_second` of the tokens behind the first one, `prompt_tokens_per_second` of `prompt_n`, the prompt
  tokens that were computed, without `cached_tokens`; `predicted_n` tokens were generated. A speed is 0 where there is
  no time to divide by. They come where the body says `timings: true`, or everywhere with `--enable-timings`; a stream
  has them in its last chunk, a Response in itself, a streamed Message in `message_delta`. The engine's clock begins
  when it takes the request in: reading and tokenizing the body is not in it. Several answers together begin with the
  first one and end with the last; the speed of several prompts is that until each has its first token. After the loss
  of a core time goes on: what passed before the first token is in `queue_ms`, what passed after it in `decode_ms`;
  `cores` names the cores that took part.
  Whole answers say the same in the header `Server-Timing`.
- **`timeout`**, or the shorter one of it and the header `X-Request-Timeout`: 504 `timeout`, in a stream that has begun
  an error event.
- **Messages** have text, refusals, reasoning (`reasoning_content` or `reasoning`), tool calls and their results; other
  parts, the older role `function` and `function_call` are refused. Arguments of tool calls that are a JSON object are
  one for the template too; other text is written as it is. A `developer` is a `system` where the template knows none.
- **Models without a chat template** get a section for each message, headed by `<|system|>`, `<|user|>` or
  `<|assistant|>`, and an answer ends where the model begins another section, unless `ignore_eos` is set.
- **`chat_template_kwargs`** sets variables that the model's template reads, but none of the server's own (`messages`,
  `tools`, special tokens, …); 16,384 characters and 8 levels at most. `documents` and `tools` need a template that
  reads them. A rendering has a second of processor time and texts of 8,388,608 characters.
- **`/v1/chat/completions/render`** and **`/v1/completions/render`** take the same bodies and answer with what the
  engine would get: `prompt`, `token_ids`, `sampling_params`; for completions a list with one object for each prompt.
- **`prompt_logprobs`** has vLLM's shape. **`return_token_ids`** adds `token_ids` to choices and chunks and
  `prompt_token_ids` to a chat's answer (its first chunk) or to a completion's choice (its first chunk).
- **Embeddings** are normalized, unless the model's own files say otherwise; with `dimensions` they are in any case. A
  text of the whole context fits, special tokens included. `truncate_prompt_tokens` keeps the last tokens of a text,
  with `truncation_side` `right` the first, and the special tokens around them. Their pooling is the model's own, or
  what `--pooling` says. A model that only embeds refuses requests for text: 400 `unsupported_parameter` for `model`.
- **Scores** (`/v1/score`, `/score`) and `relevance_score` (`/v1/rerank`, `/v2/rerank`, `/rerank`) are cosines of
  embeddings, from -1 to 1. Equal texts of a body are computed once; `usage` counts every text as often as it is given.
  `text_1` is one text, or as many as `text_2` has; the two may also be called `queries` and `documents`, `queries` and
  `items`, or `data_1` and `data_2`. Documents of equal score keep their order.
- **`POST /v1/requests/{id}/cancel`** (or `DELETE /v1/requests/{id}`) ends what runs or waits under an id, at whichever
  frontend it came in. The id is that of an answer (`chatcmpl-…`, `cmpl-…`, `embd-…`, `score-…`, `rerank-…`, `resp_…`,
  `msg_…`; `request_id` in the body, which the last two do not have, chooses it), or the `X-Request-Id` of the request,
  given by the client or not; requests that share one are all ended. 200 with `num_cancelled`, the number of their
  answers that had not ended; 404 `request_not_found` if there is none in the engine: what came before and is still
  being tokenized ends when it gets there. A cancelled answer ends where it is, with `finish_reason` `abort` and its
  usage, whole or streamed (with `[DONE]`); a Response has the status `cancelled`. What has no partial answer fails
  with 499 `request_cancelled`: embeddings, scores, rankings, Messages, and an answer with log-probabilities of a
  prompt that was not computed yet.
- **Files and batches** (`/v1/files`, `/v1/batches`) have OpenAI's objects; what their states and limits are:
  [batch.md](batch.md#over-http-v1files-and-v1batches). `POST /v1/files` is a form with a `file` and the fields below.
  Lists come in pages, with `has_more`, `first_id` and `last_id`.
- **`GET /load`** describes the whole server, whichever frontend answers: `num_requests_running`,
  `num_requests_waiting`, both together as `server_load`, `num_queued_tokens`, `kv_cache_usage` (0 to 1), `is_full` and
  what there is room for (`capacity`), sums over its engine cores as they published them, and the same of each one in
  `cores`, with its `state` and `age_s`, how long ago it was heard.
- **`GET /health`** is 200 while one core serves requests: `num_cores_ready` says how many do, `cores` how each one is.
- **`GET /server_info`** has versions, model, precision, the `device` of each core, and limits of all together; no paths
  and no keys. **`GET /metrics`** is for Prometheus: [metrics.md](metrics.md).

## Other APIs

`/v1/responses` and `/v1/messages` are translated into chat completions and fail as those do, with their own names of
fields. Nothing is kept between requests: what refers to an earlier answer is refused.

- **Responses**: instructions are a system message; a call of a function joins the assistant's message before it,
  reasoning with text the one after it. Only parts with text can be read, and only functions are tools. Reasoning comes
  as `reasoning_text`, never as a summary. A failure in a stream that has begun is its last event, `response.failed`.
- **Messages**: consecutive messages of one role are one; a conversation that ends with the assistant is continued; the
  result of a tool with `is_error` begins with `Error: `. `input_tokens` leaves out what came from the prefix cache,
  which is `cache_read_input_tokens`. A tool use that `max_tokens` cut off is left out of a whole answer; a stream sends
  what there is of it. Errors have Anthropic's envelope, with `param` and `code` beside its own fields and the statuses
  of all other routes; one in a stream that has begun is its last event, `error`.
"""


def default_of(body: type[Body], name: str) -> str:
    """The default as JSON writes it."""
    field = body.model_fields[name]
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "required"
    return "" if value is None else f"`{_json(value)}`"


def rows_of(body: type[Body]) -> Iterator[tuple[str, str, str, str]]:
    """Name, status, default or neutral values, and meaning of each field that the endpoint knows."""
    for name, field in body.model_fields.items():
        yield name, "honoured", default_of(body, name), field.description or ""
    for name, item in body.unsupported_parameters.items():
        if name not in body.model_fields:
            yield name, "refused", " ".join(f"`{_json(value)}`" for value in item.neutral), item.meaning
    for name, reason in body.harmless_parameters.items():
        if name not in body.model_fields:
            yield name, "harmless", "", reason


def document() -> str:
    """The whole text of docs/api.md."""
    lines = [INTRODUCTION]
    for endpoint, body in ENDPOINTS.items():
        lines += [
            f"## `{endpoint}`",
            "",
            "| field | | default; values that ask for nothing | meaning |",
            "|---|---|---|---|",
        ]
        for name, status, values, meaning in rows_of(body):
            lines.append(f"| `{name}` | {status} | {values} | {' '.join(meaning.split())} |")
        lines.append("")
    return "\n".join(lines)


def _json(value: Any) -> str:
    return orjson.dumps(value, default=lambda body: body.model_dump(by_alias=True, exclude_none=True)).decode()


def main() -> int:
    """Write, or compare."""
    if "--check" in sys.argv[1:]:
        return int(not DOCUMENT.exists() or DOCUMENT.read_text(encoding="utf-8") != document())
    DOCUMENT.write_text(document(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
