"""How far back each layer sees: a sliding window in tokens, the token itself included, or None for everything.

One function for each way in which the families say it. A config that says something else is a `ConfigError`.
"""

from engine_core.config_values import ConfigValues
from ipc.errors import ConfigError

Windows = tuple[int | None, ...]

FULL, SLIDING = "full_attention", "sliding_attention"
_GEMMA3_PATTERN = 6


def no_windows(values: ConfigValues, num_layers: int) -> Windows:
    """Every layer sees everything."""
    for name in ("sliding_window", "layer_types"):
        values.refuse_other_than(name, (None,))
    return (None,) * num_layers


def same_window(values: ConfigValues, num_layers: int) -> Windows:
    """All layers have the window that `sliding_window` says, if any."""
    values.refuse_other_than("layer_types", (None,))
    return (None if values.is_null("sliding_window") else values.integer("sliding_window"),) * num_layers


def qwen_windows(values: ConfigValues, num_layers: int) -> Windows:
    """Only with `use_sliding_window`; by default for the layers from `max_window_layers` on."""
    has_windows = values.boolean("use_sliding_window")
    first = values.integer("max_window_layers", minimum=0) if has_windows else num_layers
    kinds = _kinds(values, tuple(SLIDING if index >= first else FULL for index in range(num_layers)))
    if not has_windows and SLIDING in kinds:
        raise ConfigError("config.json: layer_types has layers with a window, use_sliding_window is false")
    return _windows_of(kinds, values.integer("sliding_window") if has_windows else None)


def gemma2_windows(values: ConfigValues, num_layers: int) -> Windows:
    """By default, every other layer from the first on."""
    kinds = _kinds(values, tuple(FULL if index % 2 else SLIDING for index in range(num_layers)))
    return _windows_of(kinds, values.integer("sliding_window"))


def gemma3_windows(values: ConfigValues, num_layers: int) -> Windows:
    """As `gemma3_kinds` says."""
    return _windows_of(gemma3_kinds(values, num_layers), values.integer("sliding_window"))


def gemma3_kinds(values: ConfigValues, num_layers: int) -> tuple[str, ...]:
    """`FULL` or `SLIDING` for each layer; by default, every sixth layer is full."""
    pattern = values.integer("sliding_window_pattern") if "sliding_window_pattern" in values else _GEMMA3_PATTERN
    return _kinds(values, tuple(SLIDING if (index + 1) % pattern else FULL for index in range(num_layers)))


def _kinds(values: ConfigValues, default: tuple[str, ...]) -> tuple[str, ...]:
    kinds = default if values.is_null("layer_types") else values.texts("layer_types")
    if len(kinds) != len(default) or not {FULL, SLIDING}.issuperset(kinds):
        raise ConfigError(f"config.json: layer_types must name {len(default)} times {FULL} or {SLIDING}")
    return kinds


def _windows_of(kinds: tuple[str, ...], window: int | None) -> Windows:
    return tuple(window if kind == SLIDING else None for kind in kinds)
