"""Which known name is meant by an unknown one, by the rules of the library that PostgREST uses for its hints.

The rules are those of fuzzyset (hackage.haskell.org/package/fuzzyset): the names that share 3-grams with the
unknown one, the nearest by cosine similarity first, are scored by their Levenshtein distance; if none of them
is good enough, those that share 2-grams.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable

# As many as the library considers.
_CONSIDERED = 50


def best_match(wanted: str, known: Iterable[str], minimum: float) -> str | None:
    """The name most like `wanted` whose score (0 to 1) is at least `minimum`."""
    names = sorted(set(known))
    for size in (3, 2):
        similar = [name for name in names if _cosine(wanted, name, size) > 0]
        nearest = sorted(similar, key=lambda name: _cosine(wanted, name, size), reverse=True)[:_CONSIDERED]
        scores = [(_closeness(wanted.lower(), name.lower()), name) for name in nearest]
        best = max(scores, default=(0.0, ""))
        if best[0] >= minimum:
            return best[1]
    return None


def _grams(text: str, size: int) -> Counter[str]:
    plain = "-" + re.sub(r"[^\w, ]|_", "", text.lower()) + "-"
    plain = plain.ljust(size, "-")
    return Counter(plain[start : start + size] for start in range(len(plain) - size + 1))


def _cosine(one: str, other: str, size: int) -> float:
    a, b = _grams(one, size), _grams(other, size)
    shared = sum(a[gram] * b[gram] for gram in a)
    return shared / math.sqrt(sum(n * n for n in a.values()) * sum(n * n for n in b.values()))


def _closeness(one: str, other: str) -> float:
    """1 minus the Levenshtein distance as a share of the longer text's length."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        previous, row = row, [i]
        for j, b in enumerate(other, 1):
            row.append(min(previous[j] + 1, row[j - 1] + 1, previous[j - 1] + (a != b)))
    return 1 - row[-1] / max(len(one), len(other), 1)
