# SPDX-License-Identifier: GPL-2.0-only
"""bpf(2) commands on many elements of a map (bpf_map_do_batch(), kernel/bpf/syscall.c).

Which of them a map type has is in its class (``BATCH``). Hash maps walk whole buckets and go on by a bucket's
number (u32); the others go on by the last key. How many elements were handled is written back, also
when an element is refused.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from ..bpf.map_object import FMODE_READ, FMODE_WRITE, MapObject
from ..errors import KernelError, MemoryFault
from ..maps.base import BPF_F_LOCK, ENOTSUPP
from ..maps.hash import HtabBase
from .bpf import Call, command
from .bpf_map import delete_value, map_for, update_value


def _begin(call: Call, mode: int, operation: str) -> tuple[MapObject, int]:
    """The map and how many elements are asked for; the count in user memory is 0 from here on.

    KernelError(EBADF, EPERM), ENOTSUPP when the map type lacks the command, EINVAL for flags.
    """
    held = map_for(call, mode)
    if operation not in held.impl.BATCH:
        raise KernelError(ENOTSUPP, f"maps of this type have no {operation} of many elements")
    flags = call.attr["elem_flags"]
    if flags & ~BPF_F_LOCK:
        raise KernelError(errno.EINVAL, f"unknown flags {flags:#x} for elements")
    if flags:
        raise KernelError(errno.EINVAL, "BPF_F_LOCK on a value without a spin lock")
    if isinstance(held.impl, HtabBase) and call.attr["flags"] and "lookup" in operation:
        raise KernelError(errno.EINVAL, "a batch has no flags of its own")
    count = call.attr["count"]
    if count:
        call.put("count", 0)
    return held, count


def _each(call: Call, count: int, handle: Callable[[int], None]) -> int:
    """Handle elements 0, 1 ... until one is refused; what was done is written back either way."""
    done = 0
    try:
        for number in range(count):
            handle(number)
            done += 1
    except MemoryFault as fault:
        if not fault.user:
            raise
        call.put("count", done)
        raise
    except KernelError:
        call.put("count", done)
        raise
    if count:
        call.put("count", done)
    return 0


@command("MAP_UPDATE_BATCH")
def map_update_batch(call: Call) -> int:
    """generic_map_update_batch()."""
    held, count = _begin(call, FMODE_WRITE, "update")
    attr, key_size, value_size = call.attr, held.key_size, held.impl.syscall_value_size

    def update(number: int) -> None:
        key = call.read(attr["keys"] + number * key_size, key_size)
        value = call.read(attr["values"] + number * value_size, value_size)
        update_value(call, held, key, value, attr["elem_flags"])

    return _each(call, count, update)


@command("MAP_DELETE_BATCH")
def map_delete_batch(call: Call) -> int:
    """generic_map_delete_batch()."""
    held, count = _begin(call, FMODE_WRITE, "delete")

    def delete(number: int) -> None:
        delete_value(call, held, call.read(call.attr["keys"] + number * held.key_size, held.key_size))

    return _each(call, count, delete)


@command("MAP_LOOKUP_BATCH")
def map_lookup_batch(call: Call) -> int:
    """Copies up to ``count`` elements; ENOENT with the last ones, ENOSPC when not even one bucket fits."""
    held, count = _begin(call, FMODE_READ, "lookup")
    if isinstance(held.impl, HtabBase):
        return _htab_batch(call, held, held.impl, count, delete=False)
    return _generic_lookup(call, held, count)


@command("MAP_LOOKUP_AND_DELETE_BATCH")
def map_lookup_and_delete_batch(call: Call) -> int:
    """As BPF_MAP_LOOKUP_BATCH, and what was copied is gone."""
    held, count = _begin(call, FMODE_READ | FMODE_WRITE, "lookup and delete")
    assert isinstance(held.impl, HtabBase)
    return _htab_batch(call, held, held.impl, count, delete=True)


def _generic_lookup(call: Call, held: MapObject, count: int) -> int:
    """generic_map_lookup_batch(): by get_next_key."""
    impl, kernel, attr = held.impl, call.kernel, call.attr
    if not count:
        return 0
    key = call.read(attr["in_batch"], held.key_size) if attr["in_batch"] else None
    size, copied, last = impl.syscall_value_size, 0, None
    end: KernelError | None = None
    while copied < count:
        try:
            key = impl.get_next_key(kernel, key)
        except KernelError as error:
            end = error
            break
        value = impl.lookup(kernel, key)
        last = key
        if value is None:
            continue
        call.write(attr["keys"] + copied * held.key_size, key)
        call.write(attr["values"] + copied * size, value)
        copied += 1
    call.put("count", copied)
    if copied and last is not None:
        call.write(attr["out_batch"], last)
    if end is not None:
        raise end
    return 0


def _htab_batch(call: Call, held: MapObject, impl: HtabBase, count: int, delete: bool) -> int:
    """__htab_map_lookup_and_delete_batch(): whole buckets from the one whose number is in ``in_batch``."""
    kernel, attr = call.kernel, call.attr
    if not count:
        return 0
    bucket = int.from_bytes(call.read(attr["in_batch"], 4), "little") if attr["in_batch"] else 0
    if bucket >= impl.n_buckets:
        raise KernelError(errno.ENOENT, "there is no such bucket")
    batch = impl.batch(kernel, bucket, count)
    call.write(attr["keys"], b"".join(batch.keys))
    call.write(attr["values"], b"".join(batch.values))
    if delete:
        impl.delete_batch(kernel, batch)
        for key in batch.keys:
            held.refer(kernel, key, None)
    call.write(attr["out_batch"], batch.bucket.to_bytes(4, "little"))
    call.put("count", len(batch.keys))
    if batch.bucket >= impl.n_buckets:
        raise KernelError(errno.ENOENT, "these were the last elements")
    if not batch.keys:
        raise KernelError(errno.ENOSPC, "the first bucket holds more elements than asked for")
    return 0
