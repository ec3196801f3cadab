"""What a runtime says of a file that it refuses, as words for people.

Its messages hold the places in its C++ source, lists of template arguments, its own names of
error codes, and several lines. Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_LONGEST = 240
# Left out, in this order.
_NOISE = tuple(
    re.compile(pattern)
    for pattern in (
        r"\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ",
        r"Load model from .*? failed:",
        # "/src/graph.cc:12 T ns::f(const A<B>&, int) const "
        r"/\S+\.(?:cc|h|cpp):\d+ [^()]*\((?:[^()]|\([^()]*\))*\)(?: const)? ",
        r"\b\w+\.(?:cc|h|cpp):\d+ \w+ ",  # "tensorutils.cc:12 f "
        r"[\w.()]+ (?:[=!<>]=|[<>]) [\w.()]+ was false\. (?=\S)",
        r"Exception during initialization: ",
        r"This is an invalid model\. (?:Error: )?",
        r"^Invalid model\. ",
        r"^Error: ",
    )
)
_NEXT_SENTENCE = re.compile(r"\.\s+(?=[A-Z])")
_STATUS = re.compile(
    r"Non-zero status code returned while running (\S+) node\. Name:'(.*?)' Status Message:\s*"
)
_NEW_OPSET = re.compile(r"Opset (\d+) is under development.*?till opset (\d+)", re.DOTALL)
# What to do about what is said, the first that is found in it.
_ADVICE: Sequence[tuple[re.Pattern[str], str]] = tuple(
    (re.compile(pattern, re.IGNORECASE), advice)
    for pattern, advice in (
        (r"opset \d+|IR version|operator version", "export it for an older version"),
        (
            r"No Op registered|No opset import|NOT_IMPLEMENTED|Could not find an implementation"
            r"|custom op|Select TensorFlow|unsupported op|Encountered unresolved",
            "give a model without that operator",
        ),
    )
)


def words_of(message: str) -> str:
    """The first sentence of ``message`` without what only the runtime's authors can use.

    It has no full stop, and at most 240 characters.
    """
    newer = _NEW_OPSET.search(message)
    if newer:
        return f"it is of opset {newer[1]}, and opset {newer[2]} is the newest that it knows"
    text = _STATUS.sub(r"\1 '\2': ", message)
    for noise in _NOISE:
        text = noise.sub("", text)
    line = next((line.strip() for line in text.splitlines() if line.strip()), "no reason given")
    line = _NEXT_SENTENCE.split(line, maxsplit=1)[0]
    return (line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…").rstrip(". ")


def advice_on(message: str, otherwise: str) -> str:
    """What to do about a file of which a runtime says ``message``; ``otherwise`` where that does
    not tell."""
    return next((advice for said, advice in _ADVICE if said.search(message)), otherwise)
