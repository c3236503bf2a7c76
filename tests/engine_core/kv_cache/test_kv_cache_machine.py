"""Random life in one small KV cache; the model is what stands in each block."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.factories import BLOCK_SIZE, make_kv_cache, make_request

NUM_BLOCKS = 8
UNKNOWN = -1


class KVCacheMachine(RuleBasedStateMachine):
    """Requests with few different prompts, so that most share prefixes; several steps, some of which fail."""

    def __init__(self):
        super().__init__()
        self.kv_cache = make_kv_cache(NUM_BLOCKS)
        self.content = {block_id: [UNKNOWN] * BLOCK_SIZE for block_id in range(NUM_BLOCKS)}
        self.waiting, self.running = [], []
        self.in_step = []
        """Requests that compute something in the current step."""
        self.first_block_of_step = {}

    @rule(
        start=st.integers(0, 1),
        num_blocks=st.integers(1, 4),
        num_more=st.sampled_from([0, 0, 1, 7]),
        salt=st.sampled_from(["", "", "", "salt"]),
        num_spare_blocks=st.integers(0, 2),
        num_tokens=st.sampled_from([10, 1000]),
    )
    def arrive(self, start, num_blocks, num_more, salt, num_spare_blocks, num_tokens):
        prompt = range(start, start + num_blocks * BLOCK_SIZE + num_more)
        self.admit(make_request(prompt, cache_salt=salt), num_spare_blocks, num_tokens)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def fork(self, data):
        """Another request with all that one has so far."""
        original = data.draw(st.sampled_from(self.running))
        self.admit(make_request(original.token_ids.tolist(), cache_salt=original.cache_salt), 0, 1)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def try_again(self, data):
        request = data.draw(st.sampled_from(self.waiting))
        self.waiting.remove(request)
        self.admit(request, 0, 1000)

    def admit(self, request, num_spare_blocks, num_tokens):
        can_be_admitted = self.kv_cache.can_admit(request, num_spare_blocks)
        num_cached_tokens = self.kv_cache.try_admit(request, num_spare_blocks)
        assert (num_cached_tokens is not None) == can_be_admitted
        if num_cached_tokens is None:
            self.waiting.append(request)
            return
        assert num_cached_tokens < request.num_tokens
        assert self.kv_cache.num_free_blocks >= num_spare_blocks
        request.num_computed_tokens = num_cached_tokens
        self.running.append(request)
        self.compute(request, num_tokens)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), num_tokens=st.integers(1, 40))
    def go_on(self, data, num_tokens):
        """The next chunk, or a token more where all are computed."""
        request = data.draw(st.sampled_from(self.running))
        if request in self.in_step:
            return
        if request.num_computed_tokens == request.num_tokens:
            request.append_output_token(request.num_tokens, 0.0)
            if self.kv_cache.num_missing_blocks([request]) > self.kv_cache.num_free_blocks:
                self.stop(request)
                return
            self.kv_cache.extend(request)
        self.compute(request, num_tokens)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def preempt(self, data):
        request = data.draw(st.sampled_from(self.running))
        if request not in self.in_step:
            self.stop(request)
            request.num_computed_tokens = 0
            self.waiting.append(request)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def end(self, data):
        """After the step, if the request is in it."""
        self.end_step()
        self.stop(data.draw(st.sampled_from(self.running)))

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def fail_alone(self, data):
        request = data.draw(st.sampled_from(self.running))
        if request not in self.in_step:
            self.running.remove(request)
            self.kv_cache.discard(request)

    @rule()
    def end_step(self):
        self.in_step.clear()

    @rule()
    def fail_step(self):
        """Nobody knows what the step wrote; its requests fail."""
        for request in self.in_step:
            for block_id in self.kv_cache.block_ids(request)[self.first_block_of_step[request.key] :]:
                self.content[block_id] = [UNKNOWN] * BLOCK_SIZE
        for request in self.in_step:
            self.running.remove(request)
            self.kv_cache.discard(request)
        self.in_step.clear()

    @rule()
    def reset_prefix_cache(self):
        self.kv_cache.reset_prefix_cache()

    def compute(self, request, num_tokens):
        first = request.num_computed_tokens
        end = min(first + num_tokens, request.num_tokens)
        table = self.kv_cache.block_ids(request)
        for position in range(first, end):
            block_id, offset = table[position // BLOCK_SIZE], position % BLOCK_SIZE
            self.content[block_id][offset] = (request.cache_salt, request.token_ids[position])
        self.first_block_of_step[request.key] = first // BLOCK_SIZE
        self.in_step.append(request)
        self.kv_cache.publish(request, end)
        request.num_computed_tokens = end

    def stop(self, request):
        self.running.remove(request)
        self.kv_cache.free(request)

    @invariant()
    def pool_and_tables_agree(self):
        self.kv_cache.check_integrity()

    @invariant()
    def every_request_finds_its_own_tokens(self):
        for request in self.running:
            table = self.kv_cache.block_ids(request)
            found = [self.content[block_id][offset] for block_id in table for offset in range(BLOCK_SIZE)]
            expected = [(request.cache_salt, token_id) for token_id in request.token_ids]
            assert found[: request.num_computed_tokens] == expected[: request.num_computed_tokens]

    @invariant()
    def a_block_that_is_still_written_has_one_user(self):
        writable = [
            block_id
            for request in self.running
            for block_id in self.kv_cache.block_ids(request)[request.num_computed_tokens // BLOCK_SIZE :]
        ]
        tables = [block_id for request in self.running for block_id in self.kv_cache.block_ids(request)]
        assert all(tables.count(block_id) == 1 for block_id in writable)

    @invariant()
    def only_running_requests_are_waited_for(self):
        for request in self.waiting:
            other = self.kv_cache.computing_request(request)
            assert other is None or (other in self.running and other.num_computed_tokens < other.num_tokens)

    def teardown(self):
        for request in list(self.running):
            self.stop(request)
        self.kv_cache.check_idle()


KVCacheMachine.TestCase.settings = settings(stateful_step_count=40)
TestKVCacheMachine = KVCacheMachine.TestCase
