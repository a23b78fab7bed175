"""Prose to chunks of about 20 tokens: one chunk is what one vector stands for. Pure.

Where a text is cut is a trade: a chunk should be near 20 tokens long, and should end where a
reader pauses. Each chunk costs the square of its distance from 20 (in units of 4 tokens), plus
what its end costs: nothing at the end of a paragraph, more at a sentence's, more at a comma, most
between two words. The cheapest way to cut the whole document is found by dynamic programming
over its words, as in Knuth and Plass, "Breaking Paragraphs into Lines" (1981).
"""

import re
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, pairwise
from typing import Final

TOKENS_PER_CHUNK: Final = 20
_TOLERANCE: Final = 4
"""Tokens: so far from 20, a chunk costs 1."""
_MAX_TOKENS: Final = 32
_PARAGRAPH, _SENTENCE, _CLAUSE, _WORD = 0.0, 0.5, 2.0, 6.0
_SENTENCE_END: Final = re.compile(r"(?<!\be\.g)(?<!\bi\.e)(?<!\betc)[.!?][\"')\]\u2019\u201d]*$")
_CLAUSE_END: Final = re.compile(r"[,;:)\u2013\u2014]$|^-+$")

TokenCounter = Callable[[Sequence[str]], Sequence[int]]
"""How many tokens each word is to the encoder."""


def cut_into_chunks(paragraphs: Iterable[str], count_tokens: TokenCounter) -> list[str]:
    """Cut a document into chunks of about 20 tokens, in reading order, every word kept."""
    words: list[str] = []
    end_costs: list[float] = []
    for paragraph in paragraphs:
        own = paragraph.split()
        words.extend(own)
        end_costs.extend(_end_cost(word) for word in own[:-1])
        end_costs.extend([_PARAGRAPH] if own else [])
    starts = _cheapest_starts(end_costs, count_tokens(words))
    return [" ".join(words[start:end]) for start, end in pairwise([*starts, len(words)])]


def _end_cost(word: str) -> float:
    if _SENTENCE_END.search(word):
        return _SENTENCE
    return _CLAUSE if _CLAUSE_END.search(word) else _WORD


def _cheapest_starts(end_costs: Sequence[float], tokens: Sequence[int]) -> list[int]:
    """Return the index of each chunk's first word, for the cheapest cut of the whole text."""
    total = len(tokens)
    before = [0, *accumulate(tokens)]
    cost = [0.0] + [float("inf")] * total
    start_of = [0] * (total + 1)
    for end in range(1, total + 1):
        for start in range(end - 1, -1, -1):
            length = before[end] - before[start]
            if length > _MAX_TOKENS and start < end - 1:  # a longer word is a chunk of its own
                break
            own = ((length - TOKENS_PER_CHUNK) / _TOLERANCE) ** 2 + end_costs[end - 1]
            if cost[start] + own < cost[end]:
                cost[end], start_of[end] = cost[start] + own, start
    starts: list[int] = []
    position = total
    while position:
        position = start_of[position]
        starts.append(position)
    return starts[::-1]
