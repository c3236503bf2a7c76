"""The engine requests behind one HTTP request: submitted together, read side by side, stopped together.

A `Generation` owns one engine stream per answer (prompts times `n`). The endpoints either `collect` it or iterate over
`deltas`. Invariant: whoever makes a `Generation` calls `close` in the end, and after `close` no request of it runs on
in the core, however its reader ended (done, error, client gone). Next: `ipc/client.py`.
"""

import asyncio
from array import array
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field, replace
from typing import Unpack

from frontend.answer_tokens import AnswerToken
from frontend.beginning import Beginning, can_go_on, digest_of
from frontend.errors import RequestCancelledError
from frontend.input_processor import EngineInput
from frontend.output_processor import ABORT, Finish, OutputProcessor, TextDelta, TextOptions
from frontend.state import ServedModel
from frontend.tracing import MAX_TRACED_ANSWERS, AnswerSpan
from ipc.client import EngineClient, Output, RequestStream
from ipc.errors import FastInferenceError, RequestFailedError
from ipc.messages import DISCONNECT, STOP_STRING
from ipc.request_options import RequestOptions
from ipc.request_outputs import PhaseTimes, TokenLogprobs


@dataclass(slots=True)
class Answer:
    """One answer, as far as it is read."""

    index: int
    num_prompt_tokens: int
    num_cached_tokens: int = 0
    """Prompt tokens from the prefix cache."""
    num_output_tokens: int = 0
    num_reasoning_tokens: int | None = None
    """How many of them the reasoning takes; None where the model does not think."""
    finish: Finish | None = None
    texts: list[str] = field(default_factory=list)
    """Pieces of the text; filled by `Generation.collect` only."""
    tokens: list[AnswerToken] = field(default_factory=list)
    """The tokens, where `TextOptions.has_tokens`; filled by `Generation.collect` only."""
    prompt_logprobs: list[TokenLogprobs] = field(default_factory=list)
    """Of each token of the prompt but the first, where asked for; known with the first output."""
    times: PhaseTimes | None = None
    """How long it took; known once it is finished."""
    num_resumed_tokens: int = 0
    """Tokens of it that an earlier process has left, which took no time now."""
    core_names: tuple[str, ...] = ()
    """The cores that computed it, one after the other; known once it is finished."""

    @property
    def text(self) -> str:
        """The whole text of a collected answer."""
        return "".join(self.texts)


class _AnswerStream:
    """Reads one engine stream as text."""

    def __init__(
        self,
        answer: Answer,
        stream: RequestStream,
        processor: OutputProcessor,
        *,
        has_prompt_logprobs: bool,
        token_ids_before: Sequence[int] = (),
    ) -> None:
        """`token_ids_before` come before all that the stream gives."""
        self.answer = answer
        self.stream = stream
        self.failure: FastInferenceError | None = None
        """What the answer ended in."""
        self._processor = processor
        self._has_prompt_logprobs = has_prompt_logprobs
        self._unread_token_ids = token_ids_before

    def wait_for_end(self) -> None:
        """Read the whole answer at once, where nothing in its text could end it before."""
        if self._processor.can_take_whole:
            self.stream.wait_for_end()

    async def next_delta(self) -> TextDelta | None:
        """The next delta; None after the last one. Raises what the engine stream raises, and `RequestCancelledError`
        where it was cancelled before the prompt's log-probabilities were known, without which it cannot be written."""
        if self.answer.finish is not None:
            return None
        try:
            return self._take(await anext(self.stream))
        except StopAsyncIteration:
            self.failure = RequestFailedError("the stream ended without a terminal output")
            raise self.failure from None
        except FastInferenceError as error:
            self.failure = error
            raise

    def _take(self, output: Output) -> TextDelta:
        if self._unread_token_ids:
            output.token_ids[:0] = self._unread_token_ids
            self._unread_token_ids = ()
        self.answer.num_cached_tokens = min(output.num_cached_tokens, self.answer.num_prompt_tokens)
        if output.prompt_logprobs:
            self.answer.prompt_logprobs = output.prompt_logprobs
        delta = self._processor.process(output)
        self.answer.num_output_tokens = delta.num_output_tokens
        self.answer.num_reasoning_tokens = self._processor.num_reasoning_tokens
        self.answer.finish = delta.finish
        is_cancelled = delta.finish is not None and delta.finish.reason == ABORT
        if is_cancelled and self._has_prompt_logprobs and not self.answer.prompt_logprobs:
            raise RequestCancelledError()
        if delta.finish is not None:
            self.answer.times = self.stream.phase_times(output.finished)
            self.answer.core_names = tuple(self.stream.core_names)
            self.stream.abort(STOP_STRING)  # does nothing where the engine itself finished
        return delta


class Generation:
    """The answers of one HTTP request in the making."""

    def __init__(
        self,
        client: EngineClient,
        model: ServedModel,
        inputs: Sequence[EngineInput],
        text_options: TextOptions,
        beginning: Beginning | None = None,
        span: AnswerSpan | None = None,
        **options: Unpack[RequestOptions],
    ) -> None:
        """Submit every input, all with the same options; one that `beginning` is of goes on behind it.

        `span` ends with the last answer.

        Raises:
            EngineUnavailableError: the core takes no requests; what was submitted is stopped again.
        """
        self._streams: list[_AnswerStream] = []
        self._span = span or AnswerSpan()
        self._model, self._inputs, self._adapter = model, inputs, options.get("adapter", "")
        self._beginning: Beginning | None = None
        self._digest = b""
        self._primed: TextDelta | None = None
        self._readers: dict[asyncio.Task[TextDelta | None], _AnswerStream] = {}
        try:
            for index, item in enumerate(inputs):
                params, before = item.sampling_params, self._tokens_before(item, beginning)
                if beginning is not None and before:
                    params = replace(params, seed=beginning.seed)
                    options["num_resumed_tokens"] = len(before)
                options["traceparent"] = self._span.traceparent if index < MAX_TRACED_ANSWERS else ""
                stream = client.submit([*item.prompt_token_ids, *before], params, model=model.welcome, **options)
                answer = Answer(index, len(item.prompt_token_ids), num_resumed_tokens=len(before))
                processor = OutputProcessor(model.tokenizer, text_options, model.welcome.eos_token_ids)
                has_prompt_logprobs = item.sampling_params.num_prompt_logprobs >= 0 and answer.num_prompt_tokens > 1
                self._streams.append(
                    _AnswerStream(
                        answer,
                        stream,
                        processor,
                        has_prompt_logprobs=has_prompt_logprobs,
                        token_ids_before=before,
                    )
                )
        except BaseException as error:
            self._span.end((), error)
            self.close()
            raise

    def _tokens_before(self, item: EngineInput, beginning: Beginning | None) -> Sequence[int]:
        """What there is of the answer to an input."""
        if beginning is None or len(self._inputs) > 1 or not can_go_on(item):
            return ()
        is_short = len(beginning.token_ids) < item.sampling_params.max_tokens
        if not is_short or beginning.digest != digest_of(self._model, item, self._adapter):
            return ()
        self._beginning = beginning
        return beginning.token_ids

    def beginning(self) -> Beginning | None:
        """What there is of the answer so far; None where there is nothing, or nothing that could be gone on from."""
        if len(self._streams) != 1 or not can_go_on(self._inputs[0]):
            return None
        stream, params = self._streams[0].stream, self._inputs[0].sampling_params
        before, seed = (self._beginning.token_ids, self._beginning.seed) if self._beginning else ((), params.seed)
        token_ids = array("i", before) + stream.emitted_token_ids
        if stream.is_terminated:
            del token_ids[-1:]  # behind the last one there is nothing to go on with
        if not token_ids:
            return None
        self._digest = self._digest or digest_of(self._model, self._inputs[0], self._adapter)
        return Beginning(self._digest, seed, token_ids)

    @property
    def answers(self) -> list[Answer]:
        """All answers, in order, with what is known of them so far."""
        return [stream.answer for stream in self._streams]

    def token_ids(self, index: int, start: int = 0) -> list[int]:
        """The tokens of an answer so far from a place on, as many as it counts: with the one that ended it."""
        stream = self._streams[index]
        before = self._beginning.token_ids if self._beginning is not None else ()
        first, last = start - len(before), stream.answer.num_output_tokens - len(before)
        return [
            *before[start : stream.answer.num_output_tokens],
            *stream.stream.emitted_token_ids[max(0, first) : max(0, last)],
        ]

    async def prime(self) -> None:
        """Wait for the first output of every answer, so that a refusal of any is still an HTTP status.

        May be cancelled and called again until `deltas` is read; once all have begun it returns at once.

        Raises:
            FastInferenceError: an answer failed before that; the others go on until `close`.
        """
        if len(self._streams) == 1:
            if self._primed is None:
                self._primed = await self._streams[0].next_delta()
            return
        if not self._readers:
            for stream in self._streams:
                self._read(stream)
        done, _ = await asyncio.wait(self._readers, return_when=asyncio.FIRST_EXCEPTION)
        for reader in done:
            reader.result()  # raises what this answer failed with

    async def deltas(self) -> AsyncGenerator[tuple[int, TextDelta], None]:
        """(index of the answer, delta) as they come, until every answer is finished."""
        if len(self._streams) == 1:
            if self._primed is not None:
                yield 0, self._primed
            while (delta := await self._streams[0].next_delta()) is not None:
                yield 0, delta
            self._span.end(self.answers)
            return
        if not self._readers:
            for stream in self._streams:
                self._read(stream)
        while self._readers:
            await asyncio.wait(self._readers, return_when=asyncio.FIRST_COMPLETED)
            for reader in [reader for reader in self._readers if reader.done()]:
                stream = self._readers.pop(reader)
                delta = reader.result()
                if delta is not None:
                    yield stream.answer.index, delta
                    self._read(stream)
        self._span.end(self.answers)

    async def collect(self) -> list[Answer]:
        """Wait for all answers, whole."""
        answers = self.answers
        for stream in self._streams:
            stream.wait_for_end()
        async for index, delta in self.deltas():
            answers[index].texts.append(delta.text)
            answers[index].tokens += delta.tokens
        return answers

    def close(self) -> None:
        """Stop what still runs; does nothing to answers that are finished."""
        for reader in self._readers:
            if reader.done() and not reader.cancelled():
                reader.exception()  # seen; the first failure was reported
            reader.cancel()
        self._readers.clear()
        for stream in self._streams:
            stream.stream.abort(DISCONNECT)
        self._span.end(self.answers, next((stream.failure for stream in self._streams if stream.failure), None))

    def _read(self, stream: _AnswerStream) -> None:
        self._readers[asyncio.create_task(stream.next_delta())] = stream
