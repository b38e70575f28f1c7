"""
How long a JSON text would take to parse, told by its punctuation before it is parsed.

It is read while every other request waits: the parser keeps Python's lock, so a thread would not
help.  So there is a limit, some 50 ms.  Strings cost next to nothing: encoded images may fill the
body.
"""

from typing import Final

# As the parser's time: 60 ns for a number or an escape, more for lists and names.
COSTS: Final = {b",": 1, b"[": 4, b"{": 4, b":": 2, b"\\": 1}
MOST_COST: Final = 2**19  # two images in one list each, or one in lists nested as its shape


def too_costly(text: bytes) -> bool:
    """Whether parsing it would keep others waiting for too long."""
    return sum(cost * text.count(mark) for mark, cost in COSTS.items()) > MOST_COST
