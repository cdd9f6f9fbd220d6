# SPDX-License-Identifier: GPL-2.0-only
"""Putting instructions in and taking them out, while jumps, functions and line information stay true.

Linux patches one place at a time (bpf_patch_insn_data, verifier_remove_insns). Here one pass collects
all of a phase's patches and rebuilds the program once; the result is the same, as patches do not look at
each other.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from kernel_model.isa import opcodes as op
from kernel_model.isa.insn import Insn

from ..cfg import is_ld_imm64, is_pseudo_call, is_pseudo_func
from ..env import Env, InsnAux

JA32: Final = op.BPF_JMP32 | op.BPF_JA
_NO_JUMP: Final = (op.BPF_CALL, op.BPF_EXIT, op.BPF_TAIL_CALL)


def is_jump(code: int) -> bool:
    """A jump inside a function."""
    return code & 7 in (op.BPF_JMP, op.BPF_JMP32) and code & 0xF0 not in _NO_JUMP


def distance(insn: Insn) -> tuple[int, str] | None:
    """The slots between the next instruction and the target, and the field that holds them."""
    if is_jump(insn.code):
        return (insn.imm, "imm") if insn.code == JA32 else (insn.off, "off")
    if is_pseudo_call(insn) or is_pseudo_func(insn):
        return insn.imm, "imm"
    return None


def set_distance(insn: Insn, where: str, value: int) -> Insn:
    """The instruction with another distance in ``off`` or ``imm``."""
    return insn._replace(off=value) if where == "off" else insn._replace(imm=value)


class _Rebuild:
    """One pass of patching: where the old slots went, and the jumps moved along."""

    def __init__(self, env: Env, patches: Mapping[int, list[Insn]], entries: Mapping[int, int]) -> None:
        self.env = env
        self.patches = patches
        self.entries = entries
        self.starts: list[int] = []
        at = 0
        for i in range(len(env.insns)):
            self.starts.append(at)
            at += len(patches[i]) if i in patches else 1
        self.starts.append(at)

    def _moved(self, insn: Insn, old_target: int, at: int, where: str) -> Insn:
        end = len(self.starts) - 1
        # Behind the end lies what a callback that was taken out is said to be.
        goal = self.starts[min(old_target, end)] + max(old_target - end, 0)
        if is_jump(insn.code):
            goal += self.entries.get(old_target, 0)
        value = goal - at - 1
        if where == "off" and not -0x8000 <= value <= 0x7FFF:
            raise self._too_far(old_target, at)
        return set_distance(insn, where, value)

    def _too_far(self, old_target: int, at: int) -> Exception:
        """The patch that pushes a 16-bit jump out of range is named; Linux tries them in order."""
        source = next(i for i in range(len(self.starts)) if self.starts[i + 1] > at)
        low, high = sorted((source, old_target))
        grown = old_target - source - 1
        for place in sorted(self.patches):
            if low <= place < high or (place == high and old_target < source):
                grown += (len(self.patches[place]) - 1) * (1 if old_target > source else -1)
                if not -0x8000 <= grown <= 0x7FFF:
                    break
        else:
            place = source
        orig = self.env.aux[place].orig_idx
        return self.env.reject(errno.ENOMEM, f"insn {orig} cannot be patched due to 16-bit range\n")

    def plain(self, i: int, insn: Insn) -> Insn:
        """An instruction that is not patched itself."""
        found = distance(insn)
        if found is None:
            return insn
        return self._moved(insn, i + 1 + found[0], self.starts[i], found[1])

    def patched(self, i: int) -> list[Insn]:
        """A patch: its inner jumps stay, those that leave it follow their targets."""
        patch = self.patches[i]
        size = len(patch)
        out = []
        for k, insn in enumerate(patch):
            found = distance(insn)
            if found is not None:
                to = k + found[0] + 1
                if to > size:
                    insn = self._moved(insn, i + 1 + to - size, self.starts[i] + k, found[1])
                elif to < 0:
                    insn = self._moved(insn, i + to, self.starts[i] + k, found[1])
            out.append(insn)
        return out


def patch(env: Env, patches: Mapping[int, list[Insn]], entries: Mapping[int, int] | None = None) -> None:
    """Replace each slot in ``patches`` by its instructions.

    A jump to a patched slot goes to the beginning of its patch, or ``entries[slot]`` slots further. The
    notes of the old instruction pass to the last one of the patch. Rejects with ENOMEM when a 16-bit jump
    does not reach any more.
    """
    if not patches:
        return
    work = _Rebuild(env, patches, entries or {})
    insns: list[Insn] = []
    auxes: list[InsnAux] = []
    for i, insn in enumerate(env.insns):
        old = env.aux[i]
        if i not in patches:
            insns.append(work.plain(i, insn))
            auxes.append(old)
            continue
        made = work.patched(i)
        insns += made
        for _ in made[:-1]:
            fresh = InsnAux(old.orig_idx)
            fresh.seen = old.seen
            auxes.append(fresh)
        auxes.append(old)
    starts = work.starts
    env.insns, env.aux = insns, auxes
    for sub in env.subprogs:
        sub.start = starts[sub.start]
    env.line_info = [replace(info, insn_off=starts[info.insn_off]) for info in env.line_info]
    env.pokes = [replace(poke, insn=starts[poke.insn + 1] - 1) for poke in env.pokes]


def _keep_lines(env: Env, dead: bytearray, new_index: list[int]) -> None:
    """Line information of removed slots goes, but the last one before a live slot without any stays."""
    kept = []
    infos = env.line_info
    for at, info in enumerate(infos):
        off = info.insn_off
        if dead[off]:
            live = off
            while live < len(dead) and dead[live]:
                live += 1
            following = infos[at + 1].insn_off if at + 1 < len(infos) else None
            if live == len(dead) or (following is not None and following <= live):
                continue
            off = live
        kept.append(replace(info, insn_off=new_index[off]))
    env.line_info = kept


def _stays(dead: bytearray, target: int) -> int:
    """Where a target that is removed points afterwards, as a slot of the old program.

    bpf_adj_branches() leaves the distance alone: the target keeps its number while a row of dead slots goes,
    so it is as many slots behind the row as it was behind the row's begin. Only callbacks that are never
    called have such a target.
    """
    while target < len(dead) and dead[target]:
        first = last = target
        while first and dead[first - 1]:
            first -= 1
        while last < len(dead) and dead[last]:
            last += 1
        target += last - first
    return target


def remove(env: Env, dead: bytearray, singly: bool = False) -> None:
    """Take out the slots whose byte is set; empty functions vanish.

    Linux takes dead code out by rows, and no-operations ``singly``: what pointed at one of those points at
    the next slot that stays.
    """
    count = len(env.insns)
    new_index = []
    alive = 0
    for i in range(count):
        new_index.append(alive)
        alive += not dead[i]
    new_index.append(alive)
    insns, auxes = [], []
    for i, insn in enumerate(env.insns):
        if dead[i]:
            continue
        found = distance(insn)
        if found is not None:
            target = i + 1 + found[0]
            if not singly:
                target = _stays(dead, target)
            value = new_index[min(target, count)] + max(target - count, 0) - new_index[i] - 1
            insn = set_distance(insn, found[1], value)
        insns.append(insn)
        auxes.append(env.aux[i])
    _keep_lines(env, dead, new_index)
    subs, funcs = [], []
    for number, sub in enumerate(env.subprogs[:-1]):
        if all(dead[sub.start : env.subprogs[number + 1].start]):
            continue
        subs.append(sub)
        if number < len(env.func_info):
            funcs.append(env.func_info[number])
    subs.append(env.subprogs[-1])
    for sub in subs:
        sub.start = new_index[sub.start] if sub.start < count else alive
    env.subprogs, env.func_info = subs, funcs
    env.insns, env.aux = insns, auxes


def imm64_pair(dst: int, value: int, src: int = 0) -> list[Insn]:
    """The two slots of a 64-bit constant."""
    return [Insn(op.LD_IMM64, dst, src, 0, s32(value)), Insn(0, 0, 0, 0, s32(value >> 32))]


def s32(value: int) -> int:
    """The low 32 bits as a signed number, as ``imm`` holds them."""
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value >> 31 else value


__all__ = ["distance", "imm64_pair", "is_jump", "is_ld_imm64", "patch", "remove", "s32", "set_distance"]
