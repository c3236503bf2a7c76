"""The worked examples of docs/kv-cache.md and docs/engine.md, on the real scheduler and KV cache."""

import re

from tests.documents import ROOT
from tests.engine_core.scheduler.simulation import Simulation
from tests.factories import make_params, make_request


def rows_of(document, heading):
    """The cells of the first table behind a heading, without its first two lines."""
    text = (ROOT / "docs" / document).read_text().partition(f"\n## {heading}\n")[2]
    table = re.search(r"(?:^\|.*\n)+", text, re.MULTILINE)[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


class Conversation:
    """The requests of docs/kv-cache.md; each moment gives the cells of its row."""

    def __init__(self):
        self.simulation = Simulation(num_blocks=8, max_num_batched_tokens=64)
        self.requests = {}

    def add(self, name, token_ids, max_tokens):
        request = make_request(token_ids, sampling_params=make_params(max_tokens=max_tokens))
        [self.requests[name]] = self.simulation.add(request)

    def moment(self):
        """Compute a step."""
        plan = self.simulation.step()
        names = {request.key: name for name, request in self.requests.items()}
        computed = {names[item.key]: item.num_scheduled_tokens for item in plan.scheduled}
        kv_cache = self.simulation.kv_cache
        tables = [
            "".join(f"{block_id} " for block_id in kv_cache.block_ids(request)).strip()
            if (request := self.requests.get(name)) is not None and request.key in self.simulation.requests
            else ""
            for name in "ABC"
        ]
        free = " ".join(map(str, kv_cache._pool._free.block_ids()))
        found = " ".join(str(block.block_id) for block in kv_cache._pool.blocks if block.block_hash is not None)
        return [*tables, free, found, ", ".join(f"{name} {number}" for name, number in computed.items())]


def test_the_five_moments_of_the_kv_cache():
    conversation, shared = Conversation(), list(range(100, 132))
    conversation.add("A", [*shared, *[1] * 8], max_tokens=10)
    moments = [conversation.moment()]
    conversation.add("B", [*shared, *[7] * 4], max_tokens=40)
    moments.append(conversation.moment())
    while conversation.requests["A"].num_output_tokens < 8:
        conversation.moment()
    moments.append(conversation.moment())  # computes the eighth token
    assert conversation.requests["A"].num_output_tokens == 9
    moments.append(conversation.moment())
    conversation.add("C", [*conversation.requests["A"].token_ids, *[3] * 10], max_tokens=40)
    assert conversation.requests["C"].num_tokens == 60
    moments.append(conversation.moment())
    assert [row[2:] for row in rows_of("kv-cache.md", "Five moments")] == moments


def test_the_three_steps_of_the_scheduler():
    simulation = Simulation(num_blocks=512, max_num_batched_tokens=512)
    long = make_params(max_tokens=100)
    [b] = simulation.add(make_request(20, sampling_params=long))
    simulation.step()
    a, c = simulation.add(
        *(make_request([number] * size, sampling_params=long) for number, size in ((1, 700), (2, 40)))
    )
    plans = [simulation.step() for _ in range(3)]
    computed = [[simulation.tokens_of(plan, request.key) for request in (a, b, c)] for plan in plans]
    assert computed == [[256, 1, 40], [444, 1, 1], [1, 1, 1]]
    numbers = [[int(re.search(r"\d+", cell)[0]) for cell in row[1:]] for row in rows_of("engine.md", "One step")]
    assert numbers == computed
