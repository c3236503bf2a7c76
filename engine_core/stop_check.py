"""When a request ends by its tokens: EOS, stop token ids, `max_tokens`, the model's length. Text is not seen here."""

from engine_core.request import Request
from ipc.messages import Finished, FinishReason


class StopCheck:
    """The model's own ends; one for each process."""

    def __init__(self, eos_token_ids: tuple[int, ...], max_model_len: int) -> None:
        self._eos_token_ids = frozenset(eos_token_ids)
        self._max_model_len = max_model_len

    def is_eos(self, token_id: int) -> bool:
        """True for the tokens with which the model ends an answer."""
        return token_id in self._eos_token_ids

    def check(self, request: Request) -> Finished | None:
        """The terminal output that the newest token brings, if it ends the request."""
        params = request.sampling_params
        last_token_id = request.token_ids[-1]
        if request.num_output_tokens >= params.min_tokens:
            is_eos = last_token_id in self._eos_token_ids and not params.ignore_eos
            if is_eos or last_token_id in params.stop_token_ids:
                return request.finished(FinishReason.STOP, stop_token_id=last_token_id)
        if request.num_output_tokens >= params.max_tokens or request.num_tokens >= self._max_model_len:
            return request.finished(FinishReason.LENGTH)
        return None
