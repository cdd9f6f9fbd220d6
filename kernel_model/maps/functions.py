# SPDX-License-Identifier: GPL-2.0-only
"""Map operations that are Python, under the names that ``struct bpf_map_ops`` points at.

Arguments are kernel addresses. ``kernel.maps_by_addr`` finds the BpfMap of a struct bpf_map; keys and
values are ``key_size`` and ``value_size`` bytes. A KernelError becomes ``-errno``, except NotModelled,
which reaches the Python caller whole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..errors import KernelError, NotModelled
from ..functions import leaf

if TYPE_CHECKING:
    from ..kernel import Kernel


def _update(kernel: Kernel, map_addr: int, key: int, value: int, flags: int) -> int:
    found = kernel.maps_by_addr[map_addr]
    memory = kernel.memory
    try:
        found.update_elem(
            kernel, memory.read(key, found.key_size), memory.read(value, found.value_size), flags
        )
    except NotModelled:
        raise
    except KernelError as error:
        return -error.errno
    return 0


def _delete(kernel: Kernel, map_addr: int, key: int) -> int:
    found = kernel.maps_by_addr[map_addr]
    try:
        found.delete(kernel, kernel.memory.read(key, found.key_size))
    except NotModelled:
        raise
    except KernelError as error:
        return -error.errno
    return 0


_FUNCTIONS: dict[str, tuple[int, Callable[..., int]]] = {
    "fd_array_map_delete_elem": (2, _delete),
    "htab_lru_map_update_elem_slow": (4, _update),
    "htab_lru_percpu_map_update_elem_slow": (4, _update),
    "trie_update_elem": (4, _update),
    "trie_delete_elem": (2, _delete),
}

for _name, (_nargs, _impl) in _FUNCTIONS.items():
    leaf(_name, _nargs)(_impl)
