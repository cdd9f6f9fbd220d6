# SPDX-License-Identifier: GPL-2.0-only
"""Formatted text for programs: bpf_trace_printk(), bpf_trace_vprintk() and bpf_snprintf().

``prepare`` accepts what bpf_bprintf_prepare() accepts (kernel/bpf/helpers.c) and fetches the arguments;
``render`` lays the result out as the kernel's bstr_printf() does (lib/vsprintf.c).
"""

from __future__ import annotations

import errno
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ..errors import KernelError, MemoryFault
from ..functions import leaf
from .nofault import TASK_SIZE, copy_from_kernel, copy_string
from .siphash import siphash_1u64

if TYPE_CHECKING:
    from ..kernel import Kernel

MAX_BPRINTF_BUF: Final = 1024
MAX_BPRINTF_BIN_ARGS: Final = 512
MAX_BPRINTF_VARARGS: Final = 12
_MASK32: Final = 0xFFFF_FFFF

_SPACE: Final = frozenset(b" \t\n\v\f\r")
_PUNCT: Final = frozenset(string.punctuation.encode())
_DIGITS: Final = frozenset(b"0123456789")
_MAX_ERRNO: Final = 4095


@dataclass(frozen=True)
class Spec:
    """One conversion: its flags and width (-1: none), its kind, and the argument as it was fetched.

    ``kind`` is a conversion letter (``d u x X c s``), or ``p`` with its extension in ``kind[1:]``.
    """

    kind: str
    flags: frozenset[str]
    width: int
    value: int | bytes
    bits: int = 64


Piece = bytes | Spec


def _invalid(reason: str) -> KernelError:
    return KernelError(errno.EINVAL, reason)


class _Parser:
    """Walks a format and fetches arguments; keeps count of the buffer that they would take in Linux."""

    def __init__(self, kernel: Kernel | None, fmt: bytes, args: Sequence[int], count: int) -> None:
        self.kernel = kernel
        self.fmt = fmt + b"\0\0\0"
        self.end = len(fmt)
        self.args = args
        self.count = count
        self.used = 0
        self.space = MAX_BPRINTF_BIN_ARGS
        self.pieces: list[Piece] = []

    def parse(self) -> list[Piece]:
        at = start = 0
        while at < self.end:
            char = self.fmt[at]
            if char < 0x80 and not 0x20 <= char < 0x7F and char not in _SPACE:
                raise _invalid("control character in the format")
            if char != ord("%"):
                at += 1
                continue
            self.pieces.append(self.fmt[start:at])
            if self.fmt[at + 1] == ord("%"):
                self.pieces.append(b"%")
                at += 2
            else:
                if self.used >= self.count:
                    raise _invalid("more conversions than arguments")
                at = self.conversion(at + 1)
                self.used += 1
            start = at
        self.pieces.append(self.fmt[start : self.end])
        return self.pieces

    def conversion(self, at: int) -> int:
        """Parse behind a ``%``; where the text goes on."""
        fmt = self.fmt
        if fmt[at] >= 0x80:
            raise _invalid("conversion outside ASCII")
        flags = set()
        while fmt[at] in b"0+- ":
            flags.add(chr(fmt[at]))
            at += 1
        width = -1
        if fmt[at] in _DIGITS and fmt[at] != ord("0"):
            start = at
            while fmt[at] in _DIGITS:
                at += 1
            width = int(fmt[start:at])
        char = chr(fmt[at])
        marks = frozenset(flags)
        if char == "p":
            return self.pointer(at + 1, marks, width)
        if char == "s":
            self.check_end_of_string(at + 1)
            self.add("s", marks, width, self.string("s"))
            return at + 1
        if char == "c":
            self.take(1)
            self.add("c", marks, width, self.arg() & 0xFF)
            return at + 1
        bits = 32
        for _ in range(2):
            if fmt[at] == ord("l"):
                bits = 64
                at += 1
        kind = chr(fmt[at])
        if kind not in "iduxX":
            raise _invalid(f"conversion %{kind} is not allowed")
        self.take(bits // 8, aligned=True)
        self.add("d" if kind == "i" else kind, marks, width, self.arg() & ((1 << bits) - 1), bits)
        return at + 1

    def pointer(self, at: int, flags: frozenset[str], width: int) -> int:
        char, following = chr(self.fmt[at]), chr(self.fmt[at + 1])
        if self.fmt[at] in _SPACE or self.fmt[at] in _PUNCT or not self.fmt[at]:
            self.take(8, aligned=True)
            self.add("p", flags, width, self.arg())
            return at
        if char in "ku" and following == "s":
            self.check_end_of_string(at + 2)
            self.add("text", frozenset(), -1, self.string(char))
            return at + 2
        if char in "KxsS":
            self.take(8, aligned=True)
            self.add("p" + char, flags, width, self.arg())
            return at + 1
        if char == "B":
            self.add("text", frozenset(), -1, self.text(symbol(self.kernel, self.arg(), "B")))
            return at + 1
        if char in "iI" and following in "46":
            size = 4 if following == "4" else 16
            if self.kernel is not None and self.space < size:
                raise KernelError(errno.ENOSPC, "no room for the arguments")
            self.add("text", frozenset(), -1, self.text(self.ip(char, size)))
            return at + 2
        raise _invalid(f"%p{char} is not allowed")

    def check_end_of_string(self, at: int) -> None:
        char = self.fmt[at]
        if char and char not in _SPACE and char not in _PUNCT:
            raise _invalid("a string conversion must be followed by space or punctuation")

    def add(self, kind: str, flags: frozenset[str], width: int, value: int | bytes, bits: int = 64) -> None:
        self.pieces.append(Spec(kind, flags, width, value, bits))

    def arg(self) -> int:
        return self.args[self.used] if self.kernel is not None else 0

    def take(self, size: int, aligned: bool = False) -> None:
        """Account for an argument of ``size`` bytes. KernelError(ENOSPC)."""
        if self.kernel is None:
            return
        if aligned:
            self.space -= self.space % 4
        if self.space < size or not self.space:
            raise KernelError(errno.ENOSPC, "no room for the arguments")
        self.space -= size

    def text(self, rendered: bytes) -> bytes:
        self.space -= len(rendered) + 1
        return rendered

    def string(self, kind: str) -> bytes:
        """A string argument; one that cannot be read is empty (bpf_trace_copy_string())."""
        if self.kernel is None:
            return b""
        if not self.space:
            raise KernelError(errno.ENOSPC, "no room for the arguments")
        at = self.arg()
        user = kind == "u" or (kind == "s" and at < TASK_SIZE)
        try:
            found = copy_string(self.kernel, at, self.space, user)
        except KernelError:
            found = b""
        self.space -= len(found) + 1
        return found

    def ip(self, form: str, size: int) -> bytes:
        if self.kernel is None:
            return b""
        try:
            raw = copy_from_kernel(self.kernel, self.arg(), size)
        except KernelError:
            raw = bytes(size)
        if size == 4:
            return ".".join(f"{each:03d}" if form == "i" else str(each) for each in raw).encode()
        groups = [raw[i : i + 2].hex() for i in range(0, 16, 2)]
        return (":" if form == "I" else "").join(groups).encode()


def prepare(kernel: Kernel, fmt: bytes, args: Sequence[int]) -> list[Piece]:
    """The format's pieces with their arguments. KernelError(EINVAL) as Linux refuses, ENOSPC when strings
    and numbers do not fit 512 bytes. ``fmt`` has no NUL."""
    return _Parser(kernel, fmt, args, len(args)).parse()


def check_format(fmt: bytes, num_args: int) -> None:
    """The checks alone, as the verifier makes them for bpf_snprintf(). KernelError(EINVAL)."""
    _Parser(None, fmt, (), num_args).parse()


def symbol(kernel: Kernel | None, addr: int, form: str) -> bytes:
    """``%ps`` name, ``%pS`` name+offset/size, ``%pB`` the same for a return address (kallsyms)."""
    if kernel is None:
        return b""
    found = kernel.text.lookup(addr - 1 if form == "B" else addr)
    if found is None:
        return f"0x{addr:x}".encode()
    name, offset = found
    if form == "s":
        return name.encode()
    offset += form == "B"
    start = addr - offset
    # As kallsyms does it, a symbol ends where the next one begins.
    later = [other for other in kernel.text.symbols().values() if other > start]
    size = min(later) - start if later else 0
    return f"{name}+0x{offset:x}/0x{size:x}".encode()


def ptr_to_hashval(kernel: Kernel, ptr: int) -> int:
    """What ``%p`` shows: 32 bits of the address's hash under a key that the kernel draws once."""
    at, memory = kernel.data["ptr_key"], kernel.memory
    key = (memory.u64(at), memory.u64(at + 8))
    if key == (0, 0):
        for offset in range(0, 16, 4):
            memory.put_u32(at + offset, kernel.random.u32() | 1)
        key = (memory.u64(at), memory.u64(at + 8))
    return siphash_1u64(ptr, key) & _MASK32


def _pad(text: bytes, spec: Spec) -> bytes:
    return text.ljust(spec.width) if "-" in spec.flags else text.rjust(spec.width)


def _number(digits: bytes, sign: bytes, flags: frozenset[str], width: int) -> bytes:
    """number() of lib/vsprintf.c: zeroes go between sign and digits, a left-adjusted number has none."""
    if "-" in flags:
        return (sign + digits).ljust(width)
    if "0" in flags:
        return sign + digits.rjust(width - len(sign), b"0")
    return (sign + digits).rjust(width)


def _address(kernel: Kernel, spec: Spec) -> bytes:
    value = spec.value
    assert isinstance(value, int)
    form = spec.kind[1:]
    if form in ("s", "S"):
        return _pad(symbol(kernel, value, form), spec)
    if form != "x" and value and value < (1 << 64) - _MAX_ERRNO:
        value = ptr_to_hashval(kernel, value)
    flags, width = (spec.flags, spec.width) if spec.width >= 0 else (spec.flags | {"0"}, 16)
    return _number(b"%x" % value, b"", flags, width)


def _one(kernel: Kernel, spec: Spec) -> bytes:
    value = spec.value
    if isinstance(value, bytes):
        return value if spec.kind == "text" else _pad(value, spec)
    if spec.kind == "c":
        return _pad(bytes([value]), spec)
    if spec.kind[0] == "p":
        return _address(kernel, spec)
    if spec.kind in "xX":
        return _number(b"%x" % value if spec.kind == "x" else b"%X" % value, b"", spec.flags, spec.width)
    sign = b""
    if spec.kind == "d":
        if value >> (spec.bits - 1):
            sign, value = b"-", (1 << spec.bits) - value
        elif "+" in spec.flags:
            sign = b"+"
        elif " " in spec.flags:
            sign = b" "
    return _number(b"%d" % value, sign, spec.flags, spec.width)


def render(kernel: Kernel, pieces: Sequence[Piece]) -> bytes:
    """bstr_printf() without a limit: the whole text."""
    return b"".join(each if isinstance(each, bytes) else _one(kernel, each) for each in pieces)


def _format(kernel: Kernel, fmt: int, fmt_size: int, args: Sequence[int]) -> bytes:
    raw = kernel.memory.read(fmt, fmt_size)
    if b"\0" not in raw:
        raise _invalid("the format is not ended by a NUL")
    return render(kernel, prepare(kernel, raw.split(b"\0", 1)[0], args))


def _trace(kernel: Kernel, fmt: int, fmt_size: int, args: Sequence[int]) -> int:
    try:
        text = _format(kernel, fmt, fmt_size & _MASK32, args)
    except KernelError as error:
        return -error.errno
    kernel.tracing.printk(kernel, _c_string(text[: MAX_BPRINTF_BUF - 1]).decode("utf-8", "replace"))
    return len(text)


def _c_string(text: bytes) -> bytes:
    """What a reader of the NUL-terminated buffer sees: ``%c`` may have put a NUL in."""
    return text.split(b"\0", 1)[0]


@leaf("bpf_trace_printk", 5)
def bpf_trace_printk(kernel: Kernel, fmt: int, fmt_size: int, arg1: int, arg2: int, arg3: int) -> int:
    """One line to the trace buffer; its length, or an error."""
    return _trace(kernel, fmt, fmt_size, (arg1, arg2, arg3))


def _varargs(kernel: Kernel, args: int, data_len: int) -> Sequence[int]:
    """The u64 arguments at ``args``. KernelError(EINVAL) for more than twelve, or a part of one."""
    data_len &= _MASK32
    if data_len % 8 or data_len > MAX_BPRINTF_VARARGS * 8 or (data_len and not args):
        raise _invalid("the arguments are whole 64-bit words, twelve at most")
    try:
        return memoryview(kernel.memory.read(args, data_len)).cast("Q") if data_len else ()
    except MemoryFault as fault:
        raise KernelError(errno.EFAULT, str(fault)) from None


@leaf("bpf_trace_vprintk", 4)
def bpf_trace_vprintk(kernel: Kernel, fmt: int, fmt_size: int, args: int, data_len: int) -> int:
    """As bpf_trace_printk(), with the arguments in memory."""
    try:
        values = _varargs(kernel, args, data_len)
    except KernelError as error:
        return -error.errno
    return _trace(kernel, fmt, fmt_size, values)


@leaf("bpf_snprintf", 5)
def bpf_snprintf(kernel: Kernel, out: int, size: int, fmt: int, args: int, data_len: int) -> int:
    """Format into a buffer of ``size`` bytes: the length with its NUL that the whole text would have."""
    size &= _MASK32
    try:
        values = _varargs(kernel, args, data_len)
        # The verifier made sure that the format is a NUL-terminated constant of a read-only map.
        text = render(kernel, prepare(kernel, copy_string(kernel, fmt, 1 << 20, user=False), values))
    except KernelError as error:
        return -error.errno
    if size:
        kernel.memory.write(out, text[: size - 1] + b"\0")
    return len(text) + 1
