"""Drafts of the next tokens that cost no model: what followed the last occurrence of a request's latest tokens.

A draft is computed together with the token that is due; tokens are drawn from the resulting rows as long as the draft
was right, so the answer is the same with drafts and without. `ngram_index` finds a draft, `step_times` knows what its
rows cost, `drafter` decides for one request whether drafts pay. `scheduler/drafts.py` fits them into steps.
"""
