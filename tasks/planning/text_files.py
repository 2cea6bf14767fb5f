"""Files of text, decoded: what cannot be read is refused with the place where it cannot."""

from __future__ import annotations

import codecs
from pathlib import Path

from tasks.planning.errors import SpecError


def decoded(path: Path, encoding: str = "UTF-8", *, remedy: str) -> str:
    """Return a file's text, a byte order mark and its line ends included.

    Raises `SpecError` for a file that cannot be read, an encoding that nobody knows, and, with ``remedy``, for text in
    another encoding.
    """
    try:
        codec = codecs.lookup(encoding)
    except LookupError:
        raise SpecError(f"{path}: the encoding {encoding!r} is not known.") from None
    try:
        content = path.read_bytes()
        return codec.decode(content)[0]
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise SpecError(f"{path}, line {line}: is not {encoding} (byte {error.start}).", remedy=remedy) from None
