"""
Base64 as people send it: with line breaks, in the alphabet for addresses, without its padding, or
as a data URL.
"""

import re
from base64 import b64decode
from typing import Final

DATA_URL: Final = re.compile(rb"\s*data:[^,]{0,256};base64,", re.IGNORECASE)
WHITE: Final = b" \t\n\r\v\f"
STANDARD: Final = bytes.maketrans(b"-_", b"+/")


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
