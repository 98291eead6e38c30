"""Text out of files of others, whichever encoding their tools write. Refuses to know what it says."""

from __future__ import annotations

import codecs
from typing import Final

_MARKS: Final = (  # the longer first: that of UTF-32 begins like one of UTF-16
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_OTHERS: Final = {
    "GBK": "gb18030",
    "Shift JIS": "shift_jis",
    "EUC-KR": "euc_kr",
    "Big5": "big5",
    "Windows-1252": "cp1252",
}
_LOOKED_AT: Final = 4096  # bytes
_SHARE: Final = 0.8  # of the bytes at every second place that are zero in UTF-16 of a Latin script


def encoding_of(content: bytes) -> tuple[str, int]:
    """Tell the encoding of a text, and how many bytes of it are the mark that says so.

    UTF-8 where nothing speaks for another.
    """
    for mark, name in _MARKS:
        if content.startswith(mark):
            return name, len(mark)
    head = content[:_LOOKED_AT]
    if len(head) >= 4 and len(content) % 2 == 0:
        zeros = [head[start::2].count(0) / len(head[start::2]) for start in (0, 1)]
        if max(zeros) >= _SHARE and min(zeros) == 0:
            return ("utf-16-le", 0) if zeros[1] > zeros[0] else ("utf-16-be", 0)
    return "utf-8", 0


def decoded(content: bytes, errors: str = "replace") -> str:
    """Decode the text of a file in UTF-8, UTF-16 or UTF-32, with a mark at its beginning or without.

    Args:
        errors: As for `bytes.decode`, where it is in none of them.
    """
    name, length = encoding_of(content)
    return content[length:].decode(name, errors)


def other_encodings(content: bytes) -> list[str]:
    """Older encodings that a text may be in, as people call them. Which it is only its words can tell."""
    return [called for called in _OTHERS if _fits(content, called)]


def python_name(encoding: str) -> str:
    """Look up what Python calls one of `other_encodings`."""
    return _OTHERS[encoding]


def _fits(content: bytes, called: str) -> bool:
    try:
        content.decode(_OTHERS[called])
    except UnicodeDecodeError:
        return False
    return True
