# SPDX-License-Identifier: GPL-2.0-only
"""The vocabulary of helper prototypes: enum bpf_arg_type and enum bpf_return_type of Linux, with flags.

The flag bits are shared with the verifier's register types, so an argument that allows NULL and a
register that may be NULL carry the same bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

PTR_MAYBE_NULL: Final = 1 << 8
MEM_RDONLY: Final = 1 << 9
MEM_RINGBUF: Final = 1 << 10
OBJ_RELEASE: Final = 1 << 13
PTR_TRUSTED: Final = 1 << 20
MEM_UNINIT: Final = 1 << 15
DYNPTR_TYPE_LOCAL: Final = 1 << 16
DYNPTR_TYPE_RINGBUF: Final = 1 << 17
MEM_FIXED_SIZE: Final = 1 << 18
MEM_WRITE: Final = 1 << 25
MEM_ALIGNED: Final = 1 << 26
BASE_MASK: Final = 0xFF

ARG_DONTCARE: Final = 0
ARG_CONST_MAP_PTR: Final = 1
ARG_PTR_TO_MAP_KEY: Final = 2
ARG_PTR_TO_MAP_VALUE: Final = 3
ARG_PTR_TO_MEM: Final = 4
ARG_CONST_SIZE: Final = 6
ARG_CONST_SIZE_OR_ZERO: Final = 7
ARG_PTR_TO_CTX: Final = 8
ARG_ANYTHING: Final = 9
ARG_PTR_TO_SPIN_LOCK: Final = 10
ARG_PTR_TO_SOCK_COMMON: Final = 11
ARG_PTR_TO_SOCKET: Final = 12
ARG_PTR_TO_BTF_ID: Final = 13
ARG_PTR_TO_RINGBUF_MEM: Final = 14
ARG_CONST_ALLOC_SIZE_OR_ZERO: Final = 15
ARG_PTR_TO_BTF_ID_SOCK_COMMON: Final = 16
ARG_PTR_TO_PERCPU_BTF_ID: Final = 17
ARG_PTR_TO_FUNC: Final = 18
ARG_PTR_TO_STACK: Final = 19
ARG_PTR_TO_CONST_STR: Final = 20
ARG_PTR_TO_TIMER: Final = 21
ARG_KPTR_XCHG_DEST: Final = 22
ARG_PTR_TO_DYNPTR: Final = 23

ARG_PTR_TO_MAP_VALUE_OR_NULL: Final = PTR_MAYBE_NULL | ARG_PTR_TO_MAP_VALUE
ARG_PTR_TO_MEM_OR_NULL: Final = PTR_MAYBE_NULL | ARG_PTR_TO_MEM
ARG_PTR_TO_CTX_OR_NULL: Final = PTR_MAYBE_NULL | ARG_PTR_TO_CTX
ARG_PTR_TO_STACK_OR_NULL: Final = PTR_MAYBE_NULL | ARG_PTR_TO_STACK
ARG_PTR_TO_RDONLY_MEM: Final = MEM_RDONLY | ARG_PTR_TO_MEM
ARG_PTR_TO_UNINIT_MEM: Final = MEM_UNINIT | MEM_WRITE | ARG_PTR_TO_MEM
ARG_PTR_TO_FIXED_SIZE_MEM: Final = MEM_FIXED_SIZE | ARG_PTR_TO_MEM

ARG_PTR_TO_DYNPTR_LOCAL: Final = DYNPTR_TYPE_LOCAL | ARG_PTR_TO_DYNPTR
ARG_PTR_TO_DYNPTR_RINGBUF: Final = DYNPTR_TYPE_RINGBUF | ARG_PTR_TO_DYNPTR

RET_INTEGER: Final = 0
RET_VOID: Final = 1
RET_PTR_TO_MAP_VALUE: Final = 2
RET_PTR_TO_SOCKET: Final = 3
RET_PTR_TO_TCP_SOCK: Final = 4
RET_PTR_TO_SOCK_COMMON: Final = 5
RET_PTR_TO_MEM: Final = 6
RET_PTR_TO_MEM_OR_BTF_ID: Final = 7
RET_PTR_TO_BTF_ID: Final = 8

RET_PTR_TO_MAP_VALUE_OR_NULL: Final = PTR_MAYBE_NULL | RET_PTR_TO_MAP_VALUE
RET_PTR_TO_SOCKET_OR_NULL: Final = PTR_MAYBE_NULL | RET_PTR_TO_SOCKET
RET_PTR_TO_TCP_SOCK_OR_NULL: Final = PTR_MAYBE_NULL | RET_PTR_TO_TCP_SOCK
RET_PTR_TO_SOCK_COMMON_OR_NULL: Final = PTR_MAYBE_NULL | RET_PTR_TO_SOCK_COMMON
RET_PTR_TO_DYNPTR_MEM_OR_NULL: Final = PTR_MAYBE_NULL | RET_PTR_TO_MEM
RET_PTR_TO_RINGBUF_MEM_OR_NULL: Final = PTR_MAYBE_NULL | MEM_RINGBUF | RET_PTR_TO_MEM


@dataclass(frozen=True)
class HelperProto:
    """How a helper may be called (struct bpf_func_proto).

    ``args`` are the types of its one to five arguments, as far as the verifier looks at them;
    ``arg_sizes`` the sizes in bytes of MEM_FIXED_SIZE arguments, by position.
    """

    args: tuple[int, ...] = ()
    ret: int = RET_INTEGER
    gpl_only: bool = False
    pkt_access: bool = False
    """Its memory arguments may point into the packet."""
    might_sleep: bool = False
    allow_fastcall: bool = False
    """It keeps R1-R5 as they are when the kernel inlines it (bpf_fastcall)."""
    arg_sizes: tuple[int, ...] = (0, 0, 0, 0, 0)
    arg_btf: tuple[str, ...] = ("", "", "", "", "")
    """The structures that ARG_PTR_TO_BTF_ID arguments point to, by position."""
    ret_btf: str = ""
    """The structure that RET_PTR_TO_BTF_ID points to."""
