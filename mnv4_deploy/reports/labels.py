"""Names by which a page's charts and lists tell layers apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


def distinct(names: Sequence[str], kinds: Sequence[str], numbers: Sequence[int]) -> list[str]:
    """``names``, and behind those that several have the kind; the number where that is the same.

    Attention has several operators in one module. Numbers are those of the table's column "#".
    """
    seen = Counter(names)
    named = [
        f"{name} ({kind})" if kind and seen[name] > 1 else name
        for name, kind in zip(names, kinds, strict=True)
    ]
    seen = Counter(named)
    return [
        f"{name} #{number}" if seen[name] > 1 else name
        for name, number in zip(named, numbers, strict=True)
    ]
