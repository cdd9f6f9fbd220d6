# SPDX-License-Identifier: GPL-2.0-only
"""Queues and stacks against a list, through both doors; their machine code never traps."""

from __future__ import annotations

import errno

import pytest
from emulated import World
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel_model.errors import KernelError
from kernel_model.maps.attr import MapAttr
from kernel_model.maps.types import create

QUEUE, STACK = 22, 23
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["push", "push", "pop", "peek"]),
        st.booleans(),
        st.sampled_from([0, 0, 0, 2, 1, 3, 4]),
    ),
    max_size=40,
)


@pytest.mark.parametrize("map_type", [QUEUE, STACK])
@settings(max_examples=40, deadline=None)
@given(entries=st.integers(1, 5), size=st.integers(1, 20), steps=STEPS)
def test_against_a_list(map_type: int, entries: int, size: int, steps: list[tuple[str, bool, int]]) -> None:
    world, model = World(), []
    made = world.register(create(world, MapAttr(map_type, value_size=size, max_entries=entries)))
    buffer = world.buffer(bytes(size))
    for number, (action, by_program, flags) in enumerate(steps):
        value = bytes((number + i) & 0xFF for i in range(size))
        expected: int | bytes = 0
        if action == "push":
            if flags not in (0, 2):
                expected = -errno.EINVAL
            elif len(model) == entries and not flags:
                expected = -errno.E2BIG
            else:
                model[: len(model) == entries] = []
                model.append(value)
        elif not model:
            expected = -errno.ENOENT
        else:
            expected = model[0 if map_type == QUEUE else -1]
            if action == "pop":
                model.remove(expected)
        if by_program:
            world.memory.write(buffer, value)
            result = world.run_signed(f"bpf_map_{action}_elem", made.addr, buffer, flags)
            if action == "push":
                assert result == expected
            elif isinstance(expected, bytes):
                assert (result, world.memory.read(buffer, size)) == (0, expected)
            else:
                assert (result, world.memory.read(buffer, size)) == (expected, bytes(size))
        else:
            try:
                if action == "push":
                    made.update_elem(world, b"", value, flags)
                    got: int | bytes | None = 0
                else:
                    got = made.lookup_and_delete(world, b"") if action == "pop" else made.lookup(world, b"")
            except KernelError as error:
                got = -error.errno
            assert got == expected
    assert not world.traps
    made.free(world)


def test_keys_do_not_exist() -> None:
    world = World()
    made = create(world, MapAttr(QUEUE, value_size=4, max_entries=4))
    at = world.buffer(bytes(8))
    assert world.run("bpf_map_lookup_elem", made.addr, at) == 0
    assert world.run_signed("bpf_map_update_elem", made.addr, at, at, 0) == -errno.EINVAL
    assert world.run_signed("bpf_map_delete_elem", made.addr, at) == -errno.EINVAL
    for call in (lambda: made.get_next_key(world, None), lambda: made.delete(world, b"")):
        with pytest.raises(KernelError) as caught:
            call()
        assert caught.value.errno == errno.EINVAL
