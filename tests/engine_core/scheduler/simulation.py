"""A scheduler with a runner that only counts, for tests: it checks each step and samples a token where one is due."""

from tests.factories import BLOCK_SIZE, make_kv_cache, make_scheduler


def sampled_token(position):
    """What every request says at a position: n-grams that come again, with one surprise in seven tokens."""
    return 2 if position % 7 == 0 else 1


class Simulation:
    """One scheduler, its requests, and the tokens that each computed in its present life."""

    def __init__(self, *, num_blocks=64, **settings):
        self.kv_cache = make_kv_cache(num_blocks)
        self.scheduler = make_scheduler(self.kv_cache, **settings)
        self.max_num_seqs = settings.get("max_num_seqs", 8)
        self.max_num_batched_tokens = settings.get("max_num_batched_tokens", 64)
        self.requests = {}
        self.positions = {}
        self.num_served_tokens = {}
        """Tokens computed for each request, in all its lives."""
        self.admissions = []
        """Keys in order of admission, those included that come back."""

    def add(self, *requests):
        for request in requests:
            self.requests[request.key] = request
            self.num_served_tokens[request.key] = 0
            self.scheduler.add(request)
        return list(requests)

    def step(self, seconds=0.0):
        """Schedule, check and "execute" one step; ends those that have all their tokens. Returns the plan."""
        plan = self.scheduler.schedule()
        assert plan.num_scheduled_tokens <= self.max_num_batched_tokens
        for key in plan.dropped_request_keys:
            self.positions.pop(key, None)
        for new in plan.new_requests:
            self.positions[new.key] = self.requests[new.key].num_computed_tokens - self.tokens_of(plan, new.key)
            self.admissions.append(new.key)
        assert len(self.positions) <= self.max_num_seqs
        assert len({item.key for item in plan.scheduled}) == len(plan.scheduled)
        for item in plan.scheduled:
            if item.draft_token_ids:
                self._check_draft(item)
        self.scheduler.observe_step(seconds)
        for item in plan.scheduled:
            self._compute(item)
        return plan

    def tokens_of(self, plan, key):
        items = [item for item in plan.scheduled if item.key == key]
        return sum(item.num_scheduled_tokens - len(item.draft_token_ids) for item in items)

    def abort(self, request):
        del self.requests[request.key]
        self.scheduler.finish(request)

    def run(self, max_steps):
        """Until nothing is left."""
        for _ in range(max_steps):
            if self.scheduler.has_requests:
                self.step()
        assert not self.scheduler.has_requests, f"{len(self.requests)} requests have not ended"

    def served(self, requests):
        return sum(self.num_served_tokens[request.key] for request in requests)

    def num_running(self, requests):
        return sum(request.key in self.positions for request in requests)

    def _check_draft(self, item):
        """It fits into the request and its blocks, and took none that another may need."""
        request, num_drafted = self.requests[item.key], len(item.draft_token_ids)
        assert item.num_scheduled_tokens == 1 + num_drafted
        assert item.num_computed_tokens + 1 == request.num_computed_tokens == request.num_tokens
        assert request.num_output_tokens + num_drafted < request.sampling_params.max_tokens
        num_blocks = len(self.kv_cache.block_ids(request))
        assert request.num_tokens + num_drafted <= num_blocks * BLOCK_SIZE
        if item.new_block_ids and (num_blocks - 1) * BLOCK_SIZE >= request.num_tokens:
            assert self.kv_cache.num_free_blocks >= len(self.positions)

    def _compute(self, item):
        request = self.requests[item.key]
        num_drafted = len(item.draft_token_ids)
        assert item.num_computed_tokens == self.positions[item.key], "a token is computed twice, or left out"
        assert item.num_scheduled_tokens > num_drafted
        self.positions[item.key] += item.num_scheduled_tokens - num_drafted
        self.num_served_tokens[item.key] += item.num_scheduled_tokens - num_drafted
        assert item.is_last_chunk == (self.positions[item.key] == request.num_tokens)
        if item.is_last_chunk:
            request.append_output_token(sampled_token(request.num_tokens), 0.0)
            if num_drafted:
                self._accept(request, item.draft_token_ids)
            if request.num_output_tokens == request.sampling_params.max_tokens:
                del self.requests[item.key], self.positions[item.key]
                self.scheduler.finish(request)

    def _accept(self, request, draft_token_ids):
        num_accepted = 0
        while num_accepted < len(draft_token_ids) and request.token_ids[-1] == draft_token_ids[num_accepted]:
            request.append_output_token(sampled_token(request.num_tokens), 0.0)
            num_accepted += 1
        self.scheduler.accept_draft(request, len(draft_token_ids), num_accepted)
        self.positions[request.key] += num_accepted
        self.num_served_tokens[request.key] += num_accepted
        assert request.num_computed_tokens == self.positions[request.key] == request.num_tokens - 1
