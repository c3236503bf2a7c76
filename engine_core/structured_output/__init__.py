"""Grammars that answers must follow: compiled off the step loop, then one matcher for each running request.

A matcher knows which tokens may come next; the sampler forbids all others. A grammar that cannot be compiled, or that
exceeds a limit later, ends the request that asked for it and no other. The grammar engine is llguidance.

Reading order: `grammar`, `grammar_source`, `grammar_cache`, `grammar_probe`, `grammar_compiler`.
"""
