"""A plain sampler in numpy and float64: one row at a time, whole sorts, everything counted from scratch."""

import math

import numpy as np

from ipc.sampling_params import SamplingParams


def processed_logits(logits, params: SamplingParams, prompt=(), output=(), eos=(), allowed_by_grammar=None):
    """`[vocab_size]` float64 as they are before the temperature."""
    logits = np.array(logits, dtype=np.float64)
    prompt, output = list(prompt), list(output)
    if allowed_by_grammar is not None:
        logits[~allowed_by_grammar] = -math.inf
    if params.allowed_token_ids:
        logits[[token for token in range(len(logits)) if token not in set(params.allowed_token_ids)]] = -math.inf
    for word in params.bad_words_token_ids:
        begin = list(word[:-1])
        if not begin or output[-len(begin) :] == begin:
            logits[word[-1]] = -math.inf
    if len(output) < params.min_tokens:
        ending = [*params.stop_token_ids, *([] if params.ignore_eos else eos)]
        without = logits.copy()
        without[ending] = -math.inf
        if allowed_by_grammar is None or np.isfinite(without.max()):
            logits = without
    for item in params.logit_bias:
        logits[item.token_id] += item.bias
    for token in set(prompt + output):
        factor = params.repetition_penalty
        logits[token] = logits[token] / factor if logits[token] > 0 else logits[token] * factor
    for token in set(output):
        logits[token] -= params.frequency_penalty * output.count(token) + params.presence_penalty
    if params.top_n_sigma > 0:
        logits[logits < logits.max() - params.top_n_sigma * logits[np.isfinite(logits)].std()] = -math.inf
    return logits


def probabilities(logits: np.ndarray, params: SamplingParams) -> np.ndarray:
    """`[vocab_size]` of processed logits: temperature, then min_p, top_k, top_p."""
    scores = logits / params.temperature
    weights = np.exp(scores - scores.max())
    if params.min_p > 0:
        weights[weights < params.min_p] = 0
    if 0 < params.top_k < len(weights):
        weights[weights < np.sort(weights)[-params.top_k]] = 0
    if params.top_p < 1:
        order = np.argsort(-weights, kind="stable")
        mass = np.cumsum(weights[order]) / weights.sum()
        weights[order[int((mass < params.top_p).sum()) + 1 :]] = 0
    return weights / weights.sum()


def log_softmax(logits) -> np.ndarray:
    logits = np.asarray(logits, dtype=np.float64)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def chi_square_limit(degrees: int) -> float:
    """Exceeded by chance once in about a million times (Wilson and Hilferty's approximation)."""
    share = 2 / (9 * degrees)
    return degrees * (1 - share + 4.75 * math.sqrt(share)) ** 3


def chi_square(counts: np.ndarray, expected: np.ndarray) -> tuple[float, int]:
    """Statistic and degrees of freedom; tokens that are expected fewer than 5 times are put together."""
    common = expected >= 5
    observed = np.append(counts[common], counts[~common].sum())
    predicted = np.append(expected[common], expected[~common].sum())
    observed, predicted = observed[predicted >= 5], predicted[predicted >= 5]
    return float(((observed - predicted) ** 2 / predicted).sum()), len(predicted) - 1
