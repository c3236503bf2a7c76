import math
import time
from array import array
from dataclasses import replace

import pytest

from engine_core.admission import Admission
from engine_core.quarantine import Quarantine
from engine_core.request import ClientSlot
from engine_core.request_intake import RequestIntake, content_digest
from ipc.config import SchedulerConfig
from ipc.errors import ContextLengthError, InvalidRequestError, ModelNotFoundError, UnsupportedParameterError
from ipc.messages import Add, ClientRole, RequestClass, RequestId, Task
from tests.factories import make_fake_runner, make_params


@pytest.fixture
def accept(tmp_path):
    def accept(prompt=(1, 2, 3), *, role=ClientRole.FRONTEND, params=None, config=None, **fields):
        config = config or SchedulerConfig()
        intake = RequestIntake(make_fake_runner(tmp_path).info, None, Admission(config), config, Quarantine())
        add = Add(RequestId(1), array("i", prompt), params or make_params(), **fields)
        return intake.accept(add, ClientSlot(1), role)

    return accept


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": ()}, "prompt"),
        ({"prompt": (-1,)}, "prompt"),
        ({"prompt": (10**6,)}, "prompt"),
        ({"num_resumed_tokens": 3}, "prompt"),
        ({"num_resumed_tokens": -1}, "prompt"),
        ({"prompt": (1,) * 20, "num_resumed_tokens": 9}, "num_resumed_tokens"),
        ({"priority": 2**31}, "priority"),
        ({"timeout_ms": -1}, "timeout"),
        ({"queue_timeout_ms": 2**60}, "queue_timeout"),
        ({"num_resumed_tokens": 1, "task": Task.EMBED}, "num_resumed_tokens"),
        ({"flow": "f" * 2000}, "user"),
        ({"cache_salt": "s" * 2000}, "cache_salt"),
        ({"external_ids": ("a",) * 5}, "request_id"),
        ({"external_ids": ("",)}, "request_id"),
        ({"external_ids": ("a" * 257,)}, "request_id"),
        ({"traceparent": "0" * 65}, "traceparent"),
        ({"params": make_params(temperature=math.nan)}, "temperature"),
    ],
)
def test_a_request_that_can_never_run_is_refused_by_name(accept, fields, param):
    with pytest.raises(InvalidRequestError) as refusal:
        accept(**fields)
    assert refusal.value.param == param


def test_a_model_that_only_embeds_takes_no_request_for_text(tmp_path):
    info = replace(make_fake_runner(tmp_path).info, is_encoder=True)
    config = SchedulerConfig()
    intake = RequestIntake(info, None, Admission(config), config, Quarantine())
    add = Add(RequestId(1), array("i", [1]), make_params(), task=Task.EMBED)
    assert intake.accept(add, ClientSlot(1), ClientRole.FRONTEND).num_tokens == 1
    with pytest.raises(InvalidRequestError, match="no text") as refusal:
        intake.accept(replace(add, task=Task.GENERATE), ClientSlot(1), ClientRole.FRONTEND)
    assert refusal.value.param == "model"


def test_a_request_for_an_adapter_that_is_not_here_is_refused(accept):
    with pytest.raises(ModelNotFoundError) as refusal:
        accept(adapter="sql")
    assert refusal.value.param == "model"


def test_a_request_has_the_fingerprint_of_its_adapter(tmp_path):
    config = SchedulerConfig()
    info = replace(make_fake_runner(tmp_path).info, adapters={"sql": b"1", "chat": b"2"})
    intake = RequestIntake(info, None, Admission(config), config, Quarantine())
    add = Add(RequestId(1), array("i", [1, 2]), make_params(), adapter="chat")
    request = intake.accept(add, ClientSlot(1), ClientRole.FRONTEND)
    assert (request.adapter, request.adapter_fingerprint) == ("chat", b"2")


def test_the_same_prompt_for_another_adapter_is_another_request():
    add = Add(RequestId(1), array("i", [1, 2]), make_params())
    assert content_digest(add) != content_digest(replace(add, adapter="sql"))


def test_a_prompt_needs_room_for_one_more_token_unless_it_is_embedded(accept):
    assert accept((1,) * 1024, task=Task.EMBED).num_tokens == 1024
    with pytest.raises(ContextLengthError):
        accept((1,) * 1024)


def test_resumed_tokens_are_output(accept):
    request = accept((1, 2, 3, 4), num_resumed_tokens=3)
    assert (request.num_prompt_tokens, request.num_output_tokens) == (1, 3)


@pytest.mark.parametrize(
    ("role", "asked", "expected"),
    [
        (ClientRole.FRONTEND, RequestClass.ONLINE, RequestClass.ONLINE),
        (ClientRole.FRONTEND, RequestClass.BATCH, RequestClass.BATCH),
        (ClientRole.BATCH, RequestClass.ONLINE, RequestClass.BATCH),
    ],
)
def test_a_batch_client_cannot_ask_for_the_online_class(accept, role, asked, expected):
    assert accept(role=role, request_class=asked).request_class is expected


def test_a_priority_is_refused_where_the_policy_ignores_it(accept):
    with pytest.raises(UnsupportedParameterError):
        accept(priority=1, config=SchedulerConfig(scheduling_policy="fcfs"))


@pytest.mark.parametrize(
    ("own_ms", "setting_s", "expected_s"), [(0, 0, math.inf), (500, 0, 0.5), (0, 2, 2), (500, 2, 0.5), (5000, 2, 2)]
)
def test_the_shorter_of_the_request_s_and_the_server_s_timeouts_holds(accept, own_ms, setting_s, expected_s):
    config = SchedulerConfig(queue_timeout=setting_s, request_timeout=setting_s)
    before = time.monotonic()
    request = accept(queue_timeout_ms=own_ms, timeout_ms=own_ms, config=config)
    after = time.monotonic()
    assert before + expected_s <= request.deadline <= after + expected_s
    assert request.queue_deadline == request.deadline


def test_a_resumed_request_has_begun_to_run_in_time(accept):
    config = SchedulerConfig(queue_timeout=2, request_timeout=3)
    request = accept(num_resumed_tokens=1, queue_timeout_ms=500, config=config)
    assert request.queue_deadline == math.inf
    assert request.deadline < math.inf
