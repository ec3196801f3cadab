"""JSON of anybody, of which every text can be written again."""

from __future__ import annotations

import json
from typing import Any


def load_json(content: str | bytes) -> Any:
    """JSON of anybody as ``json.loads`` has it, of which every text can be written again.

    Raises ValueError for what is no JSON or has a text that UTF-8 cannot hold (half of a surrogate
    pair), RecursionError for what is nested too deep.
    """
    document = json.loads(content)
    json.dumps(document, ensure_ascii=False).encode("utf-8")
    return document
