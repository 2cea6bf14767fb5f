"""Files of text, decoded: what cannot be read is refused with the place where it cannot."""

from __future__ import annotations

import codecs
from pathlib import Path

from tasks.planning.errors import SpecError

BOM = "\ufeff"


def read_text(path: Path, *, called: str | None = None) -> str:
    """Return the text of a file in UTF-8, with or without a byte order mark, its lines ended by LF.

    ``called`` is what to say of it instead of its path. Raises `SpecError`.
    """
    text = decoded(path, called=called, remedy="Save the file as UTF-8.")
    return without_mark(text).replace("\r\n", "\n")


def without_mark(text: str) -> str:
    """Return the text without the byte order mark that it may begin with."""
    return text.removeprefix(BOM)


def decoded(path: Path, encoding: str = "UTF-8", *, called: str | None = None, remedy: str) -> str:
    """Return a file's text, a byte order mark and its line ends included.

    Raises `SpecError` for a file that cannot be read, an encoding that nobody knows, and, with ``remedy``, for text in
    another encoding.
    """
    name = called or str(path)
    try:
        codec = codecs.lookup(encoding)
    except LookupError:
        raise SpecError(f"{name}: the encoding {encoding!r} is not known.") from None
    try:
        content = path.read_bytes()
        return codec.decode(content)[0]
    except FileNotFoundError:
        raise SpecError(f"{name}: there is no such file.") from None
    except OSError as error:
        raise SpecError(f"{name}: cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise SpecError(f"{name}, line {line}: is not {encoding} (byte {error.start}).", remedy=remedy) from None
