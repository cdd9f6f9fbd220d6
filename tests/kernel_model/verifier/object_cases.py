# SPDX-License-Identifier: GPL-2.0-only
"""Programs with dynptrs on their stack, and what Linux 6.18 says to them."""

from __future__ import annotations

import errno
from typing import NamedTuple

_LOOKUP = """
    *(u32 *)(r10 - 4) = 0
    r2 = r10
    r2 += -4
    r1 = map(array)
    call 1
    if r0 == 0 goto out
    r6 = r0
"""
_FROM = """
    r1 = r6
    r2 = 16
    r3 = 0
    r4 = r10
    r4 += -24
    call 197
"""
_RESERVE = """
    r1 = map(ringbuf)
    r2 = 16
    r3 = 0
    r4 = r10
    r4 += -24
    call 198
"""
_SUBMIT = """
    r1 = r10
    r1 += -24
    r2 = 0
    call 199
"""
_DATA = """
    r1 = r10
    r1 += -24
    r2 = 0
    r3 = 8
    call 203
"""
_READ = """
    r1 = r10
    r1 += -64
    r2 = 8
    r3 = r10
    r3 += -24
    r4 = 0
    r5 = 0
    call 201
"""
_WRITE = """
    r1 = r10
    r1 += -24
    r2 = 0
    r3 = r6
    r4 = 8
    r5 = 0
    call 202
"""
_END = """
out:
    r0 = 0
    exit
"""
_LOCAL = _LOOKUP + _FROM


class ObjectCase(NamedTuple):
    """A program, and the errno and last words of its rejection (0 and "" when it is accepted)."""

    name: str
    text: str
    errno: int = 0
    message: str = ""


_UNINIT = "Expected an initialized dynptr as arg #0"
_INIT = "Dynptr has to be an uninitialized dynptr"
_TAKEN = "arg 1 is an unacquired reference"


def _refused(name: str, text: str, message: str, number: int = errno.EINVAL) -> ObjectCase:
    return ObjectCase(name, text + _END, number, message)


DYNPTRS = (
    ObjectCase("data", _LOCAL + _DATA + "if r0 == 0 goto out\nr1 = *(u64 *)(r0 + 0)" + _END),
    ObjectCase("read and write", _LOCAL + _READ + _WRITE + _END),
    ObjectCase("made twice", _LOCAL + _FROM + _DATA + _END),
    ObjectCase(
        "made in a loop",
        _LOOKUP + "r7 = 0\nagain:" + _FROM + "r7 += 1\nif r7 != 100 goto again" + _END,
    ),
    ObjectCase("submit", _RESERVE + _SUBMIT + _END),
    ObjectCase("discard", _RESERVE + _SUBMIT.replace("199", "200") + _END),
    ObjectCase(
        "data of a record",
        _RESERVE + _DATA + "if r0 == 0 goto sub\n*(u64 *)(r0 + 0) = 7\nsub:" + _SUBMIT + _END,
    ),
    ObjectCase(
        "in a function",
        _LOCAL
        + "r1 = r10\nr1 += -24\ncall inner"
        + _END
        + "inner:\nr2 = 0\nr3 = 8\ncall 203\nr0 = 0\nexit",
    ),
    _refused(
        "beyond a slice",
        _LOCAL + _DATA + "if r0 == 0 goto out\nr1 = *(u64 *)(r0 + 8)",
        "R0 min value is outside of the allowed memory range",
        errno.EACCES,
    ),
    _refused("never made", _LOOKUP + _DATA, _UNINIT),
    _refused("overwritten", _LOCAL + "*(u64 *)(r10 - 24) = 0\n" + _DATA, _UNINIT),
    _refused("overwritten in part", _LOCAL + "*(u8 *)(r10 - 9) = 0\n" + _DATA, _UNINIT),
    _refused("overwritten on one path", _LOCAL + """
        r7 = *(u32 *)(r6 + 0)
        if r7 > 3 goto keep
        *(u64 *)(r10 - 24) = 0
        keep:
        """ + _DATA, _UNINIT),
    _refused("made on one path", _LOOKUP + "r7 = *(u32 *)(r6 + 0)\nif r7 > 3 goto miss\n" + _FROM
             + "miss:" + _DATA, _UNINIT),
    _refused("overwritten somewhere", _LOOKUP + "r7 = *(u32 *)(r6 + 0)\nr7 &= 15\n" + _FROM + """
        r1 = r10
        r1 += -32
        r1 += r7
        *(u8 *)(r1 + 0) = 1
        """ + _DATA, _UNINIT),
    _refused("a stale slice", _LOCAL + _DATA + """
        if r0 == 0 goto out
        *(u64 *)(r10 - 24) = 0
        r1 = *(u64 *)(r0 + 0)
        """, "R0 invalid mem access 'scalar'", errno.EACCES),
    _refused("read directly", _LOCAL + "r1 = *(u64 *)(r10 - 24)", "invalid read from stack off -24+0 size 8",
             errno.EACCES),
    _refused("overwritten by a helper", _LOCAL + _READ.replace("-64", "-32").replace("r2 = 8", "r2 = 16"),
             "potential write to dynptr at off=-24 disallowed", errno.EACCES),
    _refused("unaligned", _LOOKUP + _FROM.replace("-24", "-20"), _INIT),
    _refused("half outside", _LOOKUP + _FROM.replace("-24", "-8"), _INIT),
    _refused("at a variable offset", _LOOKUP + "r7 = *(u32 *)(r6 + 0)\nr7 &= 8\n"
             + _FROM.replace("r4 += -24", "r4 += -32\nr4 += r7"), _INIT),
    _refused("the second slot", _LOCAL + _DATA.replace("-24", "-16"), _UNINIT),
    _refused("over the stack", "*(u64 *)(r10 - 40) = 0\n*(u64 *)(r10 - 48) = 0\n"
             + _FROM.replace("r1 = r6", "r1 = r10\nr1 += -48"),
             "Unsupported reg type fp for bpf_dynptr_from_mem data", errno.EACCES),
    _refused("a slice of unknown size", _LOCAL + _DATA.replace("r3 = 8", "r3 = *(u32 *)(r6 + 0)"),
             "R3 is not a known constant'", errno.EACCES),
    _refused("a record kept", _RESERVE, "BPF_EXIT instruction in main prog would lead to reference leak"),
    _refused("submitted twice", _RESERVE + _SUBMIT + _SUBMIT, _TAKEN),
    _refused("submitted without a record", _SUBMIT, _TAKEN),
    _refused("submitted, but local", _LOCAL + _SUBMIT, _TAKEN),
    _refused("a record overwritten", _RESERVE + "*(u64 *)(r10 - 24) = 0\n" + _SUBMIT,
             "cannot overwrite referenced dynptr"),
    _refused("reserved over a record", _RESERVE + _RESERVE + _SUBMIT, "cannot overwrite referenced dynptr"),
    _refused("a slice after submit", _RESERVE + _DATA + "r7 = r0\n" + _SUBMIT
             + "if r7 == 0 goto out\n*(u64 *)(r7 + 0) = 7", "R7 invalid mem access 'scalar'", errno.EACCES),
)  # fmt: skip
