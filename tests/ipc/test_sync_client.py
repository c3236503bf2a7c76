"""The blocking client against a real core, and how it puts outputs together."""

import pytest

from ipc import sync_client
from ipc.messages import FinishReason, RequestId
from ipc.request_options import new_add
from ipc.request_outputs import Output, RequestOutputs, TokenLogprobs
from tests.factories import make_params
from tests.processes import core_process

PROMPT = list(b"to be continued")


@pytest.fixture(scope="module")
def core(tmp_path_factory):
    with core_process(tmp_path_factory.mktemp("core")) as core:
        yield core


def test_the_core_is_greeted_as_soon_as_there_is_a_connection(core, monkeypatch):
    core.connect()  # it listens
    monkeypatch.setattr(sync_client, "_HELLO_INTERVAL_S", 1000)  # a second HELLO would come too late
    assert core.connect().session.is_ready


class _Deltas(RequestOutputs):
    """Outputs that come in pieces, however fast the reader is."""

    def __init__(self, outputs):
        super().__init__(new_add(RequestId(1), [1], make_params()))
        self._outputs = iter(outputs)

    def try_take(self):
        return next(self._outputs)


def test_collect_joins_everything(core):
    rows = [TokenLogprobs(rank, (rank,), (-0.5,)) for rank in range(4)]
    end = core.connect().generate([1], make_params()).finished
    deltas = [
        Output([5], logprobs=[rows[2]], prompt_logprobs=rows[:2]),
        None,
        Output([6], logprobs=[rows[3]], finished=end, num_cached_tokens=7),
    ]
    whole = core.connect().collect(_Deltas(deltas))
    assert whole == Output([5, 6], rows[2:], rows[:2], end, None, 7)


@pytest.mark.parametrize("num_resumed_tokens", range(1, 13))
def test_a_resumed_request_goes_on_where_it_stopped(core, num_resumed_tokens):
    client, params = core.connect(), make_params(max_tokens=12)
    whole = client.generate(PROMPT, params)
    emitted = whole.token_ids[:num_resumed_tokens]
    rest = client.collect(client.submit(PROMPT + emitted, params, num_resumed_tokens=num_resumed_tokens))
    assert emitted + rest.token_ids == whole.token_ids
    assert (rest.finished.reason, rest.finished.num_output_tokens) == (FinishReason.LENGTH, 12)
    assert rest.finished.num_prompt_tokens == len(PROMPT)


def test_a_request_whose_last_token_was_emitted_ends_at_once(core):
    client = core.connect()
    stop = client.generate(PROMPT, make_params(max_tokens=6)).token_ids[-1]
    params = make_params(max_tokens=50, stop_token_ids=(stop,))
    whole = client.generate(PROMPT, params)
    again = client.collect(client.submit(PROMPT + whole.token_ids, params, num_resumed_tokens=len(whole.token_ids)))
    assert again.token_ids == []
    assert (again.finished.reason, again.finished.stop_token_id) == (FinishReason.STOP, stop)
