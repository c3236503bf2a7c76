"""From logits to one token per row, every row by its own parameters and independent of the others.

`batch_sampler` is what the model runner calls: it keeps failures to their own row and advances the requests' `state`
once a token is sampled. `sampler` holds the order in which everything is applied: `grammar_masks`, `logprobs`,
`logits_processors`, `penalties` (with `token_counts`), `top_n_sigma`, `token_picker` (with `truncation` and `draw`,
or `native_token_picker`). `prompt_logprobs` works on the prompts.
"""
