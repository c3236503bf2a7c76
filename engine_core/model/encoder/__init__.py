"""Sentence encoders: models whose tokens see each other both ways, and that give vectors but no text.

Layers are those of BERT, whatever the family calls them. A text is computed whole in one step and nothing of it is
kept, so there is neither a KV cache nor sampling here, and `EncoderRunner` stands beside `TorchModelRunner`.
Reading order: `config`, `families`, `checkpoint`, `network`, `runner`, `load`.
"""
