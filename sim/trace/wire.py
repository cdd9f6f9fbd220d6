# SPDX-License-Identifier: GPL-2.0-only
"""Integers, bytes and texts as trace files hold them: base-128 numbers, lengths in front of the rest."""

from __future__ import annotations

from collections.abc import Callable

_MAX_SHIFT = 63
_MASK = (1 << 64) - 1


class WireError(Exception):
    """Bytes that are no encoding: ``at`` counts from the start of the contents, ``cause`` says why."""

    def __init__(self, at: int, cause: str) -> None:
        super().__init__(at, cause)
        self.at = at
        self.cause = cause


def put_uint(out: bytearray, value: int) -> None:
    """An unsigned number below 2**64, seven bits a byte, the lowest first."""
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def zigzag(value: int) -> int:
    """A difference of two 64-bit numbers, modulo 2**64, as an unsigned number: small when it is near 0."""
    value &= _MASK
    return value << 1 & _MASK if value >> 63 == 0 else (_MASK - value) << 1 | 1


def unzigzag(value: int) -> int:
    """The difference, modulo 2**64."""
    return value >> 1 ^ -(value & 1) & _MASK


def put_bytes(out: bytearray, data: bytes | bytearray) -> None:
    """A length and so many bytes."""
    put_uint(out, len(data))
    out += data


def put_text(out: bytearray, text: str) -> None:
    """A text as UTF-8."""
    put_bytes(out, text.encode("utf-8", "surrogateescape"))


class Reader:
    """Reads what the functions above wrote; its methods raise WireError where the bytes are no such thing."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    def uint(self, below: int = 1 << 64, what: str = "a number") -> int:
        """A number, which must be under ``below``."""
        start, value, shift = self.at, 0, 0
        while True:
            if self.at >= len(self._data):
                raise WireError(start, f"{what} is cut off")
            byte = self._data[self.at]
            self.at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
            if shift > _MAX_SHIFT:
                raise WireError(start, f"{what} has more than 64 bits")
        if value >= below:
            raise WireError(start, f"{what} is {value}, which is too large")
        return value

    def delta(self) -> int:
        """A difference modulo 2**64."""
        return unzigzag(self.uint())

    def bytes(self) -> bytes:
        """A length and so many bytes."""
        start, size = self.at, self.uint()
        if size > len(self._data) - self.at:
            raise WireError(start, f"{size} bytes announced, {len(self._data) - self.at} are left")
        self.at += size
        return self._data[self.at - size : self.at]

    def text(self) -> str:
        """A text."""
        start = self.at
        try:
            return self.bytes().decode("utf-8", "surrogateescape")
        except UnicodeDecodeError:
            raise WireError(start, "a text is not UTF-8") from None

    def count(self, what: str) -> int:
        """How many items follow, each of at least one byte."""
        return self.uint(len(self._data) - self.at + 1, what)

    def end(self) -> None:
        """There must be no more."""
        if self.at != len(self._data):
            raise WireError(self.at, f"{len(self._data) - self.at} bytes too many")


class NumberSource:
    """The numbers of ``data`` one after the other; ``next`` is what the loop over steps calls.

    It raises WireError when there are no more, or when one has more than 64 bits.
    """

    def __init__(self, data: bytes, what: str) -> None:
        self._bytes = iter(data)
        self._what = what
        self.next = self._reader(self._bytes.__next__)

    def _reader(self, following: Callable[[], int]) -> Callable[[], int]:
        def uint() -> int:
            try:
                value = following()
                if value < 0x80:
                    return value
                value &= 0x7F
                shift = 7
                while True:
                    byte = following()
                    value |= (byte & 0x7F) << shift
                    if byte < 0x80:
                        break
                    shift += 7
                    if shift > _MAX_SHIFT:
                        raise WireError(0, f"{self._what}: a number has more than 64 bits")
            except StopIteration:
                raise WireError(0, f"{self._what} end too early") from None
            if value > _MASK:
                raise WireError(0, f"{self._what}: a number has more than 64 bits")
            return value

        return uint

    def end(self) -> None:
        """There must be no more."""
        if next(self._bytes, None) is not None:
            raise WireError(0, f"{self._what} go on behind the last step")
