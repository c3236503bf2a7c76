"""What the decoder's networks have in common, however they compute: sizes from the config, and the cap of logits.

Next: `network.py`, `native_network.py`, `triton_network.py`.
"""

import torch

from engine_core.model.decoder.config import DecoderConfig


class DecoderBase:
    """A part of `Network`."""

    def __init__(self, config: DecoderConfig) -> None:
        self._config = config

    @property
    def vocab_size(self) -> int:
        """Number of logits."""
        return self._config.vocab_size

    @property
    def hidden_size(self) -> int:
        """Length of a hidden state."""
        return self._config.hidden_size

    def _capped(self, logits: torch.Tensor) -> torch.Tensor:
        """The logits with the model's soft cap, if it has one, in their own memory."""
        softcap = self._config.logits_softcap
        return logits if softcap is None else logits.div_(softcap).tanh_().mul_(softcap)
