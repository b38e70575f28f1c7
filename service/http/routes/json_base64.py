"""
JSON with images in base64: parsing cost and decoding.

JSON is read while every other request waits: the parser keeps Python's lock, so a thread would not
help.  So there is a limit, some 50 ms.  Strings cost next to nothing: encoded images may fill the
body.

Base64 is taken as people send it: with line breaks, in the alphabet for addresses, without its
padding, or as a data URL.
"""

import re
from base64 import b64decode
from typing import Final

DATA_URL: Final = re.compile(rb"\s*data:[^,]{0,256};base64,", re.IGNORECASE)
WHITE: Final = b" \t\n\r\v\f"
STANDARD: Final = bytes.maketrans(b"-_", b"+/")

# As the parser's time: 60 ns for a number or an escape, more for lists and names.
COSTS: Final = {b",": 1, b"[": 4, b"{": 4, b":": 2, b"\\": 1}
MOST_COST: Final = 2**19  # two images in one list each, or one in lists nested as its shape


def decoded(text: str | bytes) -> bytes:
    """What the text stands for; raises `ValueError` where it is not base64, or breaks off."""
    try:
        return b64decode(text, validate=True)
    except ValueError:
        plain = text.encode("ascii") if isinstance(text, str) else text
    if head := DATA_URL.match(plain):
        plain = plain[head.end() :]
    plain = plain.translate(STANDARD, WHITE).rstrip(b"=")
    return b64decode(plain + b"=" * (-len(plain) % 4), validate=True)


def too_costly(text: bytes) -> bool:
    """Whether parsing it would keep others waiting for too long."""
    return sum(cost * text.count(mark) for mark, cost in COSTS.items()) > MOST_COST
