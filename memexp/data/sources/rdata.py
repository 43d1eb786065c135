"""Reads text from R's data files: the strings of each variable of a package's lazy-load database."""

import struct
import zlib
from collections.abc import Iterator
from typing import Any

from memexp.data.sources.kinds import LONGEST, expand

REFERENCES = 255
NOTHING = 254
INTEGERS = (10, 13)  # logical values are stored as integers
REALS = 14
STRING, STRINGS = 9, 16
SYMBOL = 1
PAIRS, VECTOR = 2, 19

HAS_ATTRIBUTES, HAS_TAG = 0x200, 0x400

LATIN1 = 1 << 14
"""Flag of a string; any other is UTF-8 or ASCII."""


def variables(database: bytes, index: bytes) -> Iterator[tuple[str, str]]:
    """Name and text of every variable of an .rdb file that is a vector of strings; each string is a line.

    Args:
        index: the .rdx file beside it, which says where each variable is.

    Raises:
        ValueError: a variable is in a form that cannot be read here.
    """
    places = _Reader(expand(index, "gzip")).read()["variables"]
    for name, (start, length) in sorted(places.items()):
        # The four bytes before the compressed stream are its size when unpacked.
        value = _Reader(_inflated(database[start + 4 : start + length])).read()
        value = list(value.values()) if isinstance(value, dict) else value
        if value and all(isinstance(line, str) for line in value):
            yield name, "\n".join(value)


def _inflated(data: bytes) -> bytes:
    stream = zlib.decompressobj()
    found = stream.decompress(data, LONGEST)
    if not stream.eof:
        raise ValueError("a variable is cut off or unpacks to too much")
    return found


class _Reader:
    """R's serialisation in its portable form ("X"): a word of flags, then a value of the type in its lowest byte."""

    def __init__(self, data: bytes) -> None:
        if data[:2] != b"X\n":
            raise ValueError(f"R's data begin with {data[:2]!r}; expected the portable form, X")
        self._data, self._place = data, 2
        (version,) = self._integers(3)[:1]
        if version == 3:
            self._bytes(self._integers(1)[0])  # the name of the session's encoding
        self._symbols: list[str] = []

    def _bytes(self, size: int) -> bytes:
        self._place += size
        if size < 0 or self._place > len(self._data):
            raise ValueError("R's data are cut off")
        return self._data[self._place - size : self._place]

    def _integers(self, count: int) -> tuple[int, ...]:
        return struct.unpack(f">{count}i", self._bytes(4 * count))

    def read(self) -> Any:
        """The next value: a list, or a dict if it has names; a string or a symbol is a string."""
        (flags,) = self._integers(1)
        kind = flags & 0xFF
        if kind == NOTHING:
            return None
        if kind == REFERENCES:
            return self._symbols[(flags >> 8) - 1]
        if kind == SYMBOL:
            self._symbols.append(self.read())
            return self._symbols[-1]
        if kind == PAIRS:
            return self._pairs(flags)
        (size,) = self._integers(1)
        if kind == STRING:
            return self._bytes(size).decode("latin-1" if flags & LATIN1 else "utf-8") if size >= 0 else ""
        value: Any
        if kind in INTEGERS:
            value = self._integers(size)
        elif kind == REALS:
            value = struct.unpack(f">{size}d", self._bytes(8 * size))
        elif kind in (STRINGS, VECTOR):
            value = [self.read() for _ in range(size)]
        else:
            raise ValueError(f"R's data hold a value of type {kind}; expected text, numbers and lists")
        names = self.read().get("names") if flags & HAS_ATTRIBUTES else None
        return dict(zip(names, value, strict=True)) if names else value

    def _pairs(self, flags: int) -> dict[str, Any]:
        """A list of pairs, such as the attributes of a vector."""
        found = {}
        while flags & 0xFF == PAIRS:
            if flags & HAS_ATTRIBUTES:
                self.read()
            tag = self.read() if flags & HAS_TAG else ""
            found[tag] = self.read()
            (flags,) = self._integers(1)
        return found
