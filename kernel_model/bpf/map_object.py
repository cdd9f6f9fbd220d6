# SPDX-License-Identifier: GPL-2.0-only
"""A map as a reference-counted object with an id, over its implementation in ``kernel_model.maps``."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, cast

from ..errors import KernelError
from ..maps.array import PerfEventArrayMap, ProgArrayMap
from ..maps.attr import PRESERVE_ELEMS
from ..maps.base import BpfMap
from ..maps.ringbuf import RingbufMap
from ..objects import EPOLLERR, EPOLLIN, EPOLLRDNORM, File, KObject

if TYPE_CHECKING:
    from ..kernel import Kernel
    from .btf_object import BtfObject
    from .prog import BpfProg


FMODE_READ, FMODE_WRITE = 1, 2
"""What a map's descriptor may be used for."""


class MapObject(KObject):
    """Also what the verifier sees of a map (kernel_model.verifier.api.MapView)."""

    kind = "bpf-map"

    def __init__(self, kernel: Kernel, impl: BpfMap, btf: BtfObject | None) -> None:
        super().__init__()
        self.impl = impl
        self.btf = btf
        self._kernel = kernel
        self.entries: dict[bytes, KObject] = {}
        """What program arrays and maps of maps refer to, by key: one reference each."""
        self.by_file: dict[bytes, File] = {}
        """Through which open file each slot of a perf event array was filled."""
        self.poke_progs: list[BpfProg] = []
        """Programs with direct tail calls through this map; their code is patched when a slot changes."""
        self.owner: tuple[int, int, bool] | None = None
        """Type, attach type and whether compiled, of all programs that may be in or use this array."""
        self.users = 1
        self.writers = 0
        """Mappings by processes that may write (writecnt): the map cannot be frozen meanwhile."""
        impl.set_id(kernel, kernel.maps.add(self))
        kernel.maps_by_addr[impl.addr] = impl

    def get_user(self) -> None:
        """A descriptor or a pin more (usercnt)."""
        self.users += 1
        self.get()

    def put_user(self, kernel: Kernel) -> None:
        """One less. A program array that user space cannot reach any more is emptied: its programs may
        hold the array itself (bpf_map_put_uref())."""
        self.users -= 1
        if not self.users and isinstance(self.impl, ProgArrayMap):
            self.impl.clear(kernel)
            for key in list(self.entries):
                self.refer(kernel, key, None)
        self.put(kernel)

    def file_released(self, kernel: Kernel, file: File) -> None:
        """perf_event_fd_array_release(): the events that were put in through ``file`` go with it."""
        if not isinstance(self.impl, PerfEventArrayMap) or self.map_flags & PRESERVE_ELEMS:
            return
        for key in [key for key, by in self.by_file.items() if by is file]:
            self.impl.update_ptr(kernel, key, 0)
            self.refer(kernel, key, None)

    def poll(self, kernel: Kernel) -> int:
        """bpf_map_poll(): an error unless the map type can be polled."""
        if not isinstance(self.impl, RingbufMap):
            return EPOLLERR
        return EPOLLIN | EPOLLRDNORM if self.impl.poll(kernel) else 0

    def wakeups(self, kernel: Kernel) -> int | None:
        return self.impl.wakeups(kernel) if isinstance(self.impl, RingbufMap) else 0

    def vma_open(self, writable: bool) -> None:
        self.writers += writable

    def vma_close(self, writable: bool) -> None:
        self.writers -= writable

    def freeze(self, kernel: Kernel) -> None:
        """BPF_MAP_FREEZE: KernelError(EBUSY) while a process has the map mapped writable."""
        if self.writers:
            raise KernelError(errno.EBUSY, "the map is mapped writable")
        self.impl.freeze(kernel)

    def refer(self, kernel: Kernel, key: bytes, obj: KObject | None) -> None:
        """Note what a slot refers to now, patch direct tail calls through it, drop what it referred to."""
        if obj is not None:
            obj.get()
        old = self.entries.pop(key, None)
        self.by_file.pop(key, None)
        if obj is not None:
            self.entries[key] = obj
        target = obj if obj is not None and obj.kind == "bpf-prog" else None
        for user in self.poke_progs:
            user.poke(kernel, self.addr, int.from_bytes(key, "little"), cast("BpfProg | None", target))
        if old is not None:
            old.put(kernel)

    def check_owner(self, prog: BpfProg) -> None:
        """bpf_prog_map_compatible(): all programs in and around a program array are of one kind.

        The first one decides; KernelError(EINVAL) for another.
        """
        owner = (prog.type, prog.expected_attach_type, prog.image is not None)
        if self.owner is None:
            self.owner = owner
        elif self.owner != owner:
            raise KernelError(errno.EINVAL, "the program does not suit those that share this program array")

    def release(self, kernel: Kernel) -> None:
        """Free the map; what its slots refer to is put first."""
        kernel.maps.remove(self.impl.id)
        del kernel.maps_by_addr[self.impl.addr]
        for entry in self.entries.values():
            entry.put(kernel)
        self.entries.clear()
        self.impl.free(kernel)
        if self.btf is not None:
            self.btf.put(kernel)

    @property
    def addr(self) -> int:
        return self.impl.addr

    @property
    def id(self) -> int:
        return self.impl.id

    @property
    def map_type(self) -> int:
        return self.impl.map_type

    @property
    def key_size(self) -> int:
        return self.impl.key_size

    @property
    def value_size(self) -> int:
        return self.impl.value_size

    @property
    def max_entries(self) -> int:
        return self.impl.max_entries

    @property
    def map_flags(self) -> int:
        return self.impl.map_flags

    @property
    def name(self) -> str:
        return self.impl.name.decode()

    @property
    def frozen(self) -> bool:
        return self.impl.frozen

    @property
    def bypass_spec_v1(self) -> bool:
        return self.impl.bypass_spec_v1

    def value_addr(self, off: int) -> int:
        """See MapView."""
        return self.impl.value_addr(off)

    def read_value(self, off: int, size: int) -> bytes | None:
        """See MapView: the contents are constants only while nobody can write them."""
        if not 0 <= off <= off + size <= self.value_size:
            return None
        try:
            return self._kernel.memory.read(self.impl.value_addr(off), size)
        except KernelError:
            return None
