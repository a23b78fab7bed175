"""Which text of a corpus is a copy of held-out text: by runs of five words that both hold. Pure.

A page is a near copy when a fifth of its runs of five words occur in the held-out documents
(shingles: Broder, "On the resemblance and containment of documents", 1997); a chunk, when half of
its own do. Runs are compared without case and punctuation.
"""

import re
from collections.abc import Iterable
from typing import Final

RUN: Final = 5
PAGE_SHARE: Final = 0.2
CHUNK_SHARE: Final = 0.5
_WORD: Final = re.compile(r"\w+")


def runs_of(texts: Iterable[str]) -> set[int]:
    """Hash every run of five words within each text; a shorter text is one run."""
    return {run for text in texts for run in _runs(text)}


def share_copied(texts: Iterable[str], held_out: set[int]) -> float:
    """Return which share of the texts' distinct runs, from 0 to 1, the held-out texts hold too."""
    own = runs_of(texts)
    return len(own & held_out) / len(own) if own else 0.0


def _runs(text: str) -> list[int]:
    words = _WORD.findall(text.casefold())
    return [
        hash(tuple(words[start : start + RUN])) for start in range(max(1, len(words) - RUN + 1))
    ]
