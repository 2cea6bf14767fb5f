"""Flyway's checksum: of the lines, whatever ends them."""

from __future__ import annotations

import zlib


def checksum(text: str) -> int:
    """Return the CRC-32 of the lines' UTF-8 bytes as the signed number of 32 bits that Flyway stores.

    The text is one `without_mark`: a second mark counts, as every other character does. A line ends at CR, LF or both,
    and nowhere else (`str.splitlines` knows more ends). The ends are not part of it, so the lines one after the other
    are the text without these two characters.
    """
    lines = text.replace("\r", "").replace("\n", "")
    unsigned = zlib.crc32(lines.encode())
    return unsigned - (1 << 32) if unsigned >= 1 << 31 else unsigned
