"""What a module of the user's own says of itself to attend over our paged cache; see `paged_module.py`.

Here and not there, because nothing here needs torch.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PagedAttentionConfig:
    """The sizes of a module; its method `paged_attention_config()` returns one."""

    num_layers: int
    """Layers with a cache."""
    num_kv_heads: int
    """Heads of keys and values in a layer."""
    head_dim: int
    """Length of a key, and of a value."""
    vocab_size: int
    """Number of logits."""
    hidden_size: int
    """Length of a hidden state."""
    max_positions: int
    """Most tokens of a request that the module can be asked about."""
