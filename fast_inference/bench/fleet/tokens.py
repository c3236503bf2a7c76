"""Texts of a simulation: who wrote which part, instead of tokens.

A text is a sequence of parts, each of an owner (a system prompt, a document, a conversation), of which only the number
counts: two texts share a prefix as long as their parts have the same owners and ends. So an owner stands for all that
comes before it, too, and a block is known by its owner and its index. Real token ids are made where somebody looks at
them (`EngineRouter`, a real server). Invariant: equal blocks of two texts mean equal tokens up to their ends.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from fast_inference.bench.fleet.prefix_cache import BlockId

_INDEX_BITS = 20
MAX_OWNERS = 1 << 31


class Alphabet(NamedTuple):
    """The token ids of which texts are made: `first` to `first + size - 1`."""

    size: int
    first: int = 0


LARGEST_ALPHABET = Alphabet(MAX_OWNERS)
"""One token tells owners apart."""


@dataclass(frozen=True, slots=True)
class Text:
    """Parts one after the other."""

    parts: tuple[tuple[int, int], ...] = ()
    """Owner and end of each part, in tokens from the beginning of the text."""

    @property
    def num_tokens(self) -> int:
        """Of all parts."""
        return self.parts[-1][1] if self.parts else 0

    def plus(self, owner: int, num_tokens: int) -> "Text":
        """With so many more tokens; those of the owner that wrote the last part make that longer."""
        end = self.num_tokens + num_tokens
        if self.parts and self.parts[-1][0] == owner:
            return Text((*self.parts[:-1], (owner, end)))
        return Text((*self.parts, (owner, end)))

    def block_ids(self, block_size: int) -> list[BlockId]:
        """Of the full blocks: a block belongs to the owner of its last token."""
        ids: list[BlockId] = []
        for owner, end in self.parts:
            first = owner << _INDEX_BITS
            ids.extend(range(first + len(ids), first + end // block_size))
        return ids

    def token_ids(self, alphabet: Alphabet = LARGEST_ALPHABET, limit: int | None = None) -> "array[int]":
        """Tokens that are equal where the owners are; the first `limit` of them.

        Each part is its owner's number in digits of the alphabet, over and over, so a few tokens tell owners apart.
        """
        tokens = array("i")
        for owner, end in self.parts:
            digits = array("i", [alphabet.first + digit for digit in _digits(owner, alphabet.size)])
            count = (end if limit is None else min(end, limit)) - len(tokens)
            if count <= 0:
                break
            tokens.extend((digits * (count // len(digits) + 1))[:count])
        return tokens


def _digits(number: int, base: int) -> Sequence[int]:
    """As many for each owner, the lowest first."""
    digits = []
    limit = MAX_OWNERS
    while limit > 1:
        digits.append(number % base)
        number, limit = number // base, -(-limit // base)
    return digits


def block_id(owner: int, index: int) -> BlockId:
    """The block at this index of a text whose last part is the owner's."""
    return (owner << _INDEX_BITS) + index
