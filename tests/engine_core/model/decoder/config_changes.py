"""What `test_config_changes.py` changes in a config, and which families are still computed after it."""

from tests.engine_core.model.decoder.families import GEMMA3_ROPES, LINEAR, LLAMA3, LONGROPE, YARN

ABSENT = object()
WRONG = [ABSENT, None, True, False, "8", "", -1, 0, 0.0, 1.5, float("nan"), float("inf"), 10**400, [], {}, ["a"], [[]]]
SIZES = {
    "vocab_size": 59,
    "hidden_size": 24,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-3,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100.0},
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "eos_token_id": 2,
}
WINDOWS = {"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]}
QWEN_WINDOWS = WINDOWS | {"use_sliding_window": True, "max_window_layers": 1}
GEMMA = WINDOWS | {"query_pre_attn_scalar": 20, "hidden_activation": "gelu_pytorch_tanh"}
BASES = {
    "Llama": {"hidden_act": "silu", "attention_bias": True},
    "Mistral": {"sliding_window": 5},
    "Qwen2": QWEN_WINDOWS,
    "Qwen3": QWEN_WINDOWS | {"attention_bias": True},
    "Phi3": {"original_max_position_embeddings": 256},
    "Gemma2": GEMMA | {"attn_logit_softcapping": 3.0, "final_logit_softcapping": 4.0},
    "Gemma3": GEMMA | {"rope_parameters": GEMMA3_ROPES},
}
OLDER = {"rope_parameters": ABSENT, "rope_theta": 50.0}
OLDER_LINEAR = {"rope_scaling": {"type": "linear", "factor": 2.0}}
MSCALES = {"mscale": 0.7, "mscale_all_dim": 0.5}
SHORT = {"long_factor": [2.0] * 3, "short_factor": [1.1, 1.2, 1.3]}
LONG = LONGROPE | SHORT
del LONG["partial_rotary_factor"]

KEYS = [
    *("architectures", "model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
    *("num_attention_heads", "num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps"),
    *("rope_parameters", "rope_scaling", "rope_theta", "rope_local_base_freq", "hidden_act"),
    *("hidden_activation", "attention_bias", "mlp_bias", "tie_word_embeddings", "sliding_window", "layer_types"),
    *("use_sliding_window", "max_window_layers", "sliding_window_pattern", "_sliding_window_pattern"),
    *("attn_logit_softcapping", "final_logit_softcapping", "query_pre_attn_scalar", "use_bidirectional_attention"),
    *("quantization_config", "pretraining_tp", "is_encoder_decoder", "partial_rotary_factor", "per_layer_config"),
    "original_max_position_embeddings",
]
RIGHT = {
    # Beside values of the wrong kind, some that mean something, at least for some families.
    "num_key_value_heads": [1, 3, 4],
    "num_attention_heads": [3, 5],
    "head_dim": [5, 7, 8],
    "hidden_size": [25, 26],
    "hidden_act": ["gelu", "swish", "gelu_pytorch_tanh"],
    "hidden_activation": ["silu", "gelu"],
    "attention_bias": [True, False],
    "tie_word_embeddings": [True, False],
    "sliding_window": [3],
    "layer_types": [
        ["full_attention"] * 2,
        ["sliding_attention"] * 2,
        ["full_attention"] * 3,
        ["full_attention"],
        ["attention"] * 2,
        ["chunked_attention"] * 2,
    ],
    "max_window_layers": [0, 1, 2],
    "sliding_window_pattern": [1, 2],
    "_sliding_window_pattern": [2],
    "attn_logit_softcapping": [2.0, 2],
    "final_logit_softcapping": [2.0],
    "query_pre_attn_scalar": [9, 9.0],
    "partial_rotary_factor": [0.5, 1.0, 1],
    "original_max_position_embeddings": [64],
    "rope_theta": [200, 300.0],
    "architectures": [["LlamaForCausalLM", "MistralForCausalLM"], "LlamaForCausalLM", [None]],
    "rms_norm_eps": [1e-6, 1],
}
ALL = frozenset(BASES)
NONE = frozenset()
QWEN = frozenset({"Qwen2", "Qwen3"})
HAVE_KINDS = QWEN | {"Gemma2", "Gemma3"}
ANY_ROPE = ALL - {"Phi3", "Gemma3"}

ROPES = {
    "linear": (LINEAR, ANY_ROPE),
    "llama3": (LLAMA3, ANY_ROPE),
    "yarn": (YARN, ANY_ROPE),
    "yarn with all": (YARN | MSCALES | {"beta_fast": 3.0, "beta_slow": 2, "truncate": False}, ANY_ROPE),
    "yarn with a factor": (YARN | {"attention_factor": 0.5}, ANY_ROPE),
    "longrope": (LONG, ALL - {"Gemma3"}),
    "longrope with factors": (LONG | {"factor": 3.0, "attention_factor": 1.5}, ALL - {"Gemma3"}),
    "dynamic": ({"rope_type": "dynamic", "factor": 2.0}, NONE),
    "proportional": ({"rope_type": "proportional", "rope_theta": 100.0}, NONE),
    "unknown": ({"rope_type": "su", **SHORT}, NONE),
}
"""Parameters of one rotary embedding, and the families that are computed with them."""
COMBINATIONS = {
    "nothing": ({}, ALL),
    "older": (OLDER, ALL),
    "older linear": (OLDER | OLDER_LINEAR, ANY_ROPE),
    "older linear, newer name": (OLDER | {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, ALL - {"Phi3"}),
    "older longrope": (OLDER | {"rope_scaling": {"type": "longrope", **SHORT}}, ALL - {"Gemma3"}),
    "older su": (OLDER | {"rope_scaling": {"type": "su", **SHORT}}, NONE),
    "older yarn": (OLDER | {"rope_scaling": {"type": "yarn", "factor": 2.0}}, ANY_ROPE),
    "both, older wins": (OLDER_LINEAR, ANY_ROPE),
    "empty older": ({"rope_scaling": {}}, ALL - {"Gemma3"}),
    "no rope": ({"rope_parameters": ABSENT}, ALL),
    "local theta": (OLDER | {"rope_local_base_freq": 30.0}, ALL),
    "two original lengths": ({"rope_parameters": YARN, "original_max_position_embeddings": 128}, ANY_ROPE),
    "two original lengths, longrope": (
        {"rope_parameters": LONG, "original_max_position_embeddings": 128},
        ALL - {"Gemma3"},
    ),
    "original length left out": (
        {"rope_parameters": LONG, "original_max_position_embeddings": ABSENT},
        ALL - {"Gemma3"},
    ),
    "partly rotated, linear": ({"rope_parameters": LINEAR, "partial_rotary_factor": 0.5}, NONE),
    "partly rotated in the parameters": (
        {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.7}},
        {"Phi3"},
    ),
    "partly rotated longrope": (
        {"rope_parameters": LONG | {"short_factor": [2.0], "long_factor": [2.0], "partial_rotary_factor": 0.5}},
        NONE,
    ),
    "longrope with another size of heads": (
        {"head_dim": 8, "rope_parameters": LONG | {"short_factor": [2.0] * 4}},
        NONE,
    ),
    "llama3 upside down": ({"rope_parameters": LLAMA3 | {"low_freq_factor": 5.0}}, NONE),
    "yarn upside down": ({"rope_parameters": YARN | {"beta_fast": 1, "beta_slow": 30}}, ANY_ROPE),
    "yarn that shrinks": ({"rope_parameters": YARN | {"factor": 0.5}}, ANY_ROPE),
    "unknown parameter": ({"rope_parameters": LINEAR | {"surprise": 1}}, NONE),
    "two kinds of ropes": ({"rope_parameters": GEMMA3_ROPES}, {"Gemma3"}),
    "one kind of ropes": ({"rope_parameters": {"full_attention": LINEAR}}, NONE),
    "yarn in one kind": ({"rope_parameters": GEMMA3_ROPES | {"full_attention": YARN | {"truncate": False}}}, NONE),
    "older names in two kinds": (
        {"rope_parameters": GEMMA3_ROPES | {"full_attention": {"type": "linear", "factor": 2.0}}},
        {"Gemma3"},
    ),
    "no kinds of layers": ({"layer_types": ABSENT}, ALL),
    "pattern without kinds": ({"layer_types": None, "sliding_window_pattern": 2}, ALL),
    "pattern of another name": ({"layer_types": None, "_sliding_window_pattern": 2}, ALL),
    "no windows": ({"use_sliding_window": False, "layer_types": ["full_attention"] * 2}, HAVE_KINDS),
    "no windows, no kinds": ({"use_sliding_window": ABSENT, "layer_types": ABSENT}, ALL),
    "windows without use": ({"use_sliding_window": False}, ALL - QWEN),
    "windows from a layer on": (
        {"use_sliding_window": True, "layer_types": ABSENT, "sliding_window": 3},
        ALL - {"Llama"},
    ),
    "default of the first layer": ({"layer_types": ABSENT, "max_window_layers": ABSENT}, ALL),
    "null window, no kinds": ({"layer_types": ABSENT, "sliding_window": None}, {"Llama", "Mistral", "Phi3"}),
    "no head_dim, odd sizes": ({"head_dim": ABSENT, "hidden_size": 26}, NONE),
    "a size of heads of its own": ({"head_dim": 10}, ALL),
}
"""Changes of several keys, and the families that are computed with them."""
