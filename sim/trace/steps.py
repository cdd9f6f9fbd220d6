# SPDX-License-Identifier: GPL-2.0-only
"""Steps in few bytes: what is the same as the last time at the same instruction costs next to nothing.

A batch of executions becomes four streams, which compress well apart:

- path: how the place of each step differs from the one that followed its predecessor the last time;
- masks: which registers the step changed, 0 where they are those of the last time at this place;
- values: for each changed register, the difference to its value the last time at this place (the first
  time: to its value before the step);
- effects: for each store, how far it is from the store of the last time, its bytes, and strays.

All differences are modulo 2**64. Nothing is remembered from one batch to the next.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence

from .memory import Effect
from .record import WIDTH, Execution, Regs
from .wire import NumberSource, Reader, WireError, put_bytes, put_uint, unzigzag, zigzag

_ZEROS: Regs = (0,) * WIDTH
_START = -1
"""The place before an execution's first step."""
_NO_EFFECT = Effect(0, b"")
_MAX_STEPS = 1 << 32
_STREAMS = ("the path", "register masks", "register values")

CheckPlace = Callable[[int], bool]
"""Whether a place (prog << 32 | slot) is an instruction."""


def encode_steps(executions: Sequence[Execution]) -> list[bytes]:
    """The four streams of a batch, and with them the number of steps of each execution."""
    path, masks, values, effects = bytearray(), bytearray(), bytearray(), bytearray()
    successor: dict[int, int] = {}
    last: dict[int, tuple[int, Regs]] = {}
    stored: dict[int, Effect] = {}
    for execution in executions:
        put_uint(path, len(execution))
        before, previous = _ZEROS, _START
        rows = zip(*[iter(execution.values)] * WIDTH, strict=True)
        for place, regs in zip(execution.places, rows, strict=True):
            guess = successor.get(previous, previous + 1)
            if place == guess:
                path.append(0)
            else:
                put_uint(path, zigzag(place - guess))
                successor[previous] = place
            seen = last.get(place)
            mask = 0
            if regs != before:
                known = before if seen is None else seen[1]
                for number in range(WIDTH):
                    value = regs[number]
                    if value != before[number]:
                        mask |= 1 << number
                        put_uint(values, zigzag(value - known[number]))
            if mask == (0 if seen is None else seen[0]):
                masks.append(0)
            else:
                put_uint(masks, mask + 1)
            last[place] = mask, regs
            before, previous = regs, place
        _encode_effects(execution, effects, stored)
    return [bytes(path), bytes(masks), bytes(values), bytes(effects)]


def _encode_effects(execution: Execution, out: bytearray, stored: dict[int, Effect]) -> None:
    put_uint(out, len(execution.effects))
    at = 0
    for step in sorted(execution.effects):
        effect, place = execution.effects[step], execution.places[step]
        put_uint(out, step - at)
        put_uint(out, zigzag(effect.addr - stored.get(place, _NO_EFFECT).addr))
        put_bytes(out, effect.data)
        put_uint(out, len(effect.strays))
        for addr, byte in effect.strays:
            put_uint(out, zigzag(addr - effect.addr))
            put_uint(out, byte)
        stored[place] = effect
        at = step


def decode_steps(streams: Sequence[bytes], executions: Sequence[Execution], is_place: CheckPlace) -> int:
    """Fill empty executions from the streams; how many steps they have together. Raises WireError."""
    paths, mask_codes, deltas, effects = (*map(NumberSource, streams[:3], _STREAMS), Reader(streams[3]))
    path, masks, values = paths.next, mask_codes.next, deltas.next
    successor: dict[int, int] = {}
    last: dict[int, tuple[int, list[int]]] = {}
    stored: dict[int, Effect] = {}
    modulus = (1 << 64) - 1
    total = 0
    for execution in executions:
        count = path()
        if count > _MAX_STEPS:
            raise WireError(0, f"an execution of {count} steps")
        total += count
        places, rows = array("Q"), array("Q")
        before, previous = list(_ZEROS), _START
        for _ in range(count):
            code = path()
            place = successor.get(previous, previous + 1)
            if code:
                place = place + unzigzag(code) & modulus
                successor[previous] = place
            seen = last.get(place)
            if seen is None:
                if not is_place(place):
                    raise WireError(0, f"a step at slot {place & 0xFFFF_FFFF} of program {place >> 32}")
                known, mask = before, 0
            else:
                mask, known = seen
            code = masks()
            if code:
                mask = code - 1
                if mask >> WIDTH:
                    raise WireError(0, f"register mask {mask:#x}")
            if mask:
                regs, left, number = before.copy(), mask, 0
                while left:
                    if left & 1:
                        regs[number] = known[number] + unzigzag(values()) & modulus
                    left >>= 1
                    number += 1
                before = regs
            last[place] = mask, before
            places.append(place)
            rows.extend(before)
            previous = place
        execution.places, execution.values = places, rows
        _decode_effects(execution, effects, stored)
    effects.end()
    for source in (paths, mask_codes, deltas):
        source.end()
    return total


def _decode_effects(execution: Execution, data: Reader, stored: dict[int, Effect]) -> None:
    count, at = data.count("number of stores"), 0
    for index in range(count):
        gap = data.uint()
        if index and not gap:
            raise WireError(data.at, "two stores of one step")
        at += gap
        if at >= len(execution):
            raise WireError(data.at, f"a store at step {at} of {len(execution)}")
        place = execution.places[at]
        addr = stored.get(place, _NO_EFFECT).addr + data.delta() & (1 << 64) - 1
        content = data.bytes()
        strays = tuple(
            (addr + data.delta() & (1 << 64) - 1, data.uint(256)) for _ in range(data.count("strays"))
        )
        execution.effects[at] = stored[place] = Effect(addr, content, strays)
