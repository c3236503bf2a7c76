"""The oracle: reference answers of an undisturbed run, and what any exchange of another run means beside them.

The rule: an answer that says it is complete equals its reference; any other ends with an error object; what was shown
before an error, or before the client left, is a beginning of the reference. Everything else is a violation.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from tests.chaos.harness.answers import Answer, Choice, MalformedError, read_error, read_stream, read_whole
from tests.chaos.harness.exchange import Ending, Exchange, ask
from tests.chaos.harness.questions import Question

_MAX_LOGPROB_DIFFERENCE = 5e-4
_NUM_REFERENCES_AT_ONCE = 50


class Outcome(Enum):
    """What an exchange came to."""

    EXACT = "complete and exact"
    FAILED = "begun, then an error object"
    REFUSED = "an error status with its envelope"
    CUT = "the client left"
    LOST = "the connection ended without an error object"
    UNREACHED = "connection refused"
    HUNG = "no end"
    WRONG = "not what the reference says, or malformed"


@dataclass(frozen=True)
class Verdict:
    """What the oracle says about one exchange."""

    outcome: Outcome
    detail: str = ""
    """Code of the error, or what is wrong."""


class Oracle:
    """The questions of a run with their right answers."""

    def __init__(self, questions: Sequence[Question], references: dict[Question, Answer]) -> None:
        self.questions = questions
        self._references = references

    @classmethod
    async def undisturbed(cls, port: int, questions: Sequence[Question]) -> "Oracle":
        """Ask everything while nothing breaks.

        Raises:
            RuntimeError: not even then is everything answered.
        """
        places = asyncio.Semaphore(_NUM_REFERENCES_AT_ONCE)

        async def reference(question: Question) -> Answer:
            async with places:
                exchange = await ask(port, question.request(stream=False), hang_s=300)
            if exchange.ending is not Ending.WHOLE or exchange.status != 200:
                raise RuntimeError(f"no reference for {question.name}: {exchange.status} {bytes(exchange.body)!r}")
            return read_whole(bytes(exchange.body))

        answers = await asyncio.gather(*map(reference, questions))
        return cls(questions, dict(zip(questions, answers, strict=True)))

    def judge(self, question: Question, exchange: Exchange) -> Verdict:
        """What came of it."""
        try:
            return self._judge(self._references[question], exchange)
        except MalformedError as error:
            return Verdict(Outcome.WRONG, f"{question.name}: {error}")

    def _judge(self, reference: Answer, exchange: Exchange) -> Verdict:
        if exchange.ending in (Ending.REFUSED, Ending.HUNG):
            outcome = Outcome.UNREACHED if exchange.ending is Ending.REFUSED else Outcome.HUNG
            return Verdict(outcome, f"{exchange.num_bytes} bytes in {exchange.seconds:.1f} s")
        body, is_whole = bytes(exchange.body), exchange.ending is Ending.WHOLE
        if exchange.status == 200 and exchange.is_event_stream:
            return self._judge_stream(reference, read_stream(body), exchange)
        if not is_whole:
            return Verdict(Outcome.CUT if exchange.ending is Ending.CUT else Outcome.LOST)
        if exchange.status != 200:
            return Verdict(Outcome.REFUSED, f"{exchange.status} {read_error(body)['code']}")
        return _compared(reference, read_whole(body))

    def _judge_stream(self, reference: Answer, answer: Answer, exchange: Exchange) -> Verdict:
        if answer.is_done:
            return _compared(reference, answer)
        if wrong := _not_a_beginning(reference, answer):
            return Verdict(Outcome.WRONG, wrong)
        if answer.error is not None:
            return Verdict(Outcome.FAILED, str(answer.error["code"]))
        if exchange.ending is Ending.CUT:
            return Verdict(Outcome.CUT)
        if exchange.ending is Ending.WHOLE:
            return Verdict(Outcome.WRONG, "a stream that ends in neither [DONE] nor an error")
        return Verdict(Outcome.LOST, f"after {exchange.num_bytes} bytes")


def _compared(reference: Answer, answer: Answer) -> Verdict:
    if answer.usage != reference.usage:
        return Verdict(Outcome.WRONG, f"usage {answer.usage}, not {reference.usage}")
    if answer.choices.keys() != reference.choices.keys():
        return Verdict(Outcome.WRONG, f"choices {sorted(answer.choices)}, not {sorted(reference.choices)}")
    for index, choice in answer.choices.items():
        right = reference.choices[index]
        if (choice.text, choice.finish_reason, choice.tokens) != (right.text, right.finish_reason, right.tokens):
            return Verdict(Outcome.WRONG, f"complete, but {_difference(choice, right)}")
        if _differ(choice.logprobs, right.logprobs):
            return Verdict(Outcome.WRONG, "complete, but with other log-probabilities")
    return Verdict(Outcome.EXACT)


def _not_a_beginning(reference: Answer, answer: Answer) -> str:
    for index, choice in answer.choices.items():
        right = reference.choices.get(index, Choice())
        if not right.text.startswith(choice.text) or right.tokens[: len(choice.tokens)] != choice.tokens:
            return f"not a beginning of the answer: {_difference(choice, right)}"
        if _differ(choice.logprobs, right.logprobs[: len(choice.logprobs)]):
            return "log-probabilities that are not those of the answer"
    return ""


def _difference(choice: Choice, right: Choice) -> str:
    length = next(
        (index for index, (one, other) in enumerate(zip(choice.text, right.text, strict=False)) if one != other),
        min(len(choice.text), len(right.text)),
    )
    return (
        f"{choice.text[length : length + 20]!r} ({choice.finish_reason}, {len(choice.text)} characters) instead of "
        f"{right.text[length : length + 20]!r} ({right.finish_reason}, {len(right.text)}) after {length} characters"
    )


def _differ(logprobs: list[float], right: list[float]) -> bool:
    pairs = zip(logprobs, right, strict=True)
    return len(logprobs) != len(right) or any(abs(one - other) > _MAX_LOGPROB_DIFFERENCE for one, other in pairs)
