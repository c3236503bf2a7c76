from ipc.messages import RequestClass, RequestId, Task
from ipc.request_options import RequestOptions, new_add
from tests.factories import make_params


def test_every_option_of_a_request_is_sent():
    options = {
        "task": Task.EMBED,
        "priority": -2,
        "flow": "f",
        "cache_salt": "s",
        "request_class": RequestClass.BATCH,
        "num_resumed_tokens": 1,
        "external_ids": ("a", "b"),
        "arrival_time_us": 7,
        "adapter": "sql",
        "traceparent": "00-1-2-01",
    }
    add = new_add(RequestId(3), [1, 2], make_params(), **options, queue_timeout_s=0.25, timeout_s=1e-9)
    assert {name: getattr(add, name) for name in options} == options
    assert (add.queue_timeout_ms, add.timeout_ms) == (250, 1)
    assert RequestOptions.__annotations__.keys() == options.keys() | {"queue_timeout_s", "timeout_s"}
