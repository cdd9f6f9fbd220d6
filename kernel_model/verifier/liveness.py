# SPDX-License-Identifier: GPL-2.0-only
"""Which stack slots may still be read: gathered while paths are followed, asked when states are compared.

For every chain of calls and every instruction the slots that were read there and those that were always
written there are kept as bit masks; a data-flow pass turns them into "live before this instruction". (6.18,
kernel/bpf/liveness.c)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .printing import slots_mask_text
from .state import VerifierState

if TYPE_CHECKING:
    from .env import Env

_ALL: Final = (1 << 64) - 1


class _Masks:
    """For one frame, by instruction of one function: four masks of stack slots."""

    __slots__ = ("live_before", "may_read", "must_write", "must_write_acc")

    def __init__(self, count: int) -> None:
        self.may_read = [0] * count
        self.must_write = [0] * count
        self.must_write_acc = [0] * count
        self.live_before = [0] * count


class _Instance:
    """One function as called through one chain of calls.

    ``callsites``: the call of each outer frame, then the function's own start. ``starts``: the first slot
    of each frame's function.
    """

    __slots__ = ("callsites", "count", "dropped", "frames", "start", "starts", "updated", "written", "wrote")

    def __init__(self, callsites: tuple[int, ...], starts: tuple[int, ...], count: int) -> None:
        self.callsites = callsites
        self.starts = starts
        self.start = starts[-1]
        self.count = count
        self.updated = False
        self.dropped = False
        self.frames: list[_Masks | None] = [None] * len(callsites)
        self.written = bytearray(count)
        """The instruction was seen before, so its must_write mask means something."""
        self.wrote = bytearray(count)
        """Some write was ever noted for the instruction."""

    def masks(self, frame: int) -> _Masks:
        found = self.frames[frame]
        if found is None:
            found = self.frames[frame] = _Masks(self.count)
        return found


class StackLiveness:
    """The marks of the whole run (struct bpf_liveness)."""

    def __init__(self) -> None:
        self._instances: dict[tuple[int, ...], _Instance] = {}
        self._cur: _Instance | None = None
        self._writes: dict[int, int] = {}
        self._write_insn = 0
        self._query: list[_Instance] = []
        self._query_insn = 0

    # ---- finding ---------------------------------------------------------------------------

    def _instance(self, env: Env, callsites: tuple[int, ...], starts: tuple[int, ...]) -> _Instance:
        found = self._instances.get(callsites)
        if found is None:
            number = env.containing_subprog(starts[-1])
            count = env.subprogs[number + 1].start - env.subprogs[number].start
            found = self._instances[callsites] = _Instance(callsites, starts, count)
        return found

    def _lookup(self, env: Env, state: VerifierState, frame: int) -> _Instance:
        frames = state.frames
        starts = tuple(env.subprogs[frames[i].subprogno].start for i in range(frame + 1))
        sites = tuple(frames[i + 1].callsite for i in range(frame))
        return self._instance(env, (*sites, starts[-1]), starts)

    def _current(self, env: Env) -> _Instance:
        cur = self._cur
        if cur is None:
            cur = self._cur = self._lookup(env, env.cur, len(env.cur.frames) - 1)
        return cur

    def forget_callchain(self) -> None:
        """The running state is in another function now."""
        self._cur = None

    # ---- marking ---------------------------------------------------------------------------

    def begin_insn(self, env: Env, insn_idx: int) -> None:
        """Start to gather writes of one instruction."""
        if self._cur is None:
            self._current(env)
        self._write_insn = insn_idx
        if self._writes:
            self._writes = {}

    def mark_write(self, frame: int, mask: int) -> None:
        """The instruction overwrites whole slots of a frame."""
        self._writes[frame] = self._writes.get(frame, 0) | mask

    def commit_insn(self) -> None:
        """Only what is written every time an instruction is seen counts as written by it."""
        cur = self._cur
        if cur is None:
            return
        rel = self._write_insn - cur.start
        if not self._writes:
            if not cur.written[rel]:
                cur.written[rel] = 1
                return
            if not cur.wrote[rel]:
                return
        self._commit(cur, rel)

    def _commit(self, instance: _Instance, rel: int) -> None:
        seen = instance.written[rel]
        for frame in range(len(instance.callsites)):
            mask = self._writes.get(frame, 0)
            if not mask and not seen:
                continue
            masks = instance.masks(frame)
            old = masks.must_write[rel]
            if seen:
                mask &= old
            if old != mask:
                masks.must_write[rel] = mask
                instance.updated = True
                instance.wrote[rel] = 1
            if old & ~mask:
                instance.dropped = True
        instance.written[rel] = 1

    def _read(self, instance: _Instance, frame: int, insn_idx: int, mask: int) -> None:
        masks = instance.masks(frame)
        rel = insn_idx - instance.start
        old = masks.may_read[rel]
        new = old | mask
        if new != old:
            if new & ~masks.live_before[rel]:
                instance.updated = True
            masks.may_read[rel] = new

    def mark_read(self, env: Env, frame: int, insn_idx: int, mask: int) -> None:
        """The instruction reads slots of a frame."""
        self._read(self._current(env), frame, insn_idx, mask)

    # ---- spreading -------------------------------------------------------------------------

    def update(self, env: Env) -> None:
        """Bring the running state's chain of calls up to date; at the end of a path and of a function."""
        self._cur = None
        for frame in range(len(env.cur.frames) - 1, -1, -1):
            instance = self._lookup(env, env.cur, frame)
            if instance.updated:
                self._update_instance(env, instance)
                instance.updated = False
                instance.dropped = False

    def _update_instance(self, env: Env, instance: _Instance) -> None:
        if instance.dropped:
            for masks in instance.frames:
                if masks is not None:
                    masks.must_write_acc = [0] * instance.count
        number = env.containing_subprog(instance.start)
        order = env.postorder[env.subprogs[number].postorder_start : env.subprogs[number + 1].postorder_start]
        follow = [(i, env.follow[i]) for i in order]
        rounds = 0
        changed = True
        while changed:
            rounds += 1
            changed = False
            for frame, masks in enumerate(instance.frames):
                if masks is not None:
                    for insn_idx, after in follow:
                        if after and self._update_insn(env, instance, masks, frame, insn_idx, after):
                            changed = True
        if env.every_path:
            env.log.write(f"{_chain(instance)} live stack update done in {rounds} iterations\n")
        if len(instance.callsites) > 1:
            self._to_caller(env, instance)

    def _update_insn(
        self, env: Env, instance: _Instance, masks: _Masks, frame: int, insn_idx: int, after: list[int]
    ) -> bool:
        start = instance.start
        rel = insn_idx - start
        live = 0
        acc = _ALL
        for nxt in after:
            live |= masks.live_before[nxt - start]
            acc &= masks.must_write_acc[nxt - start]
        acc |= masks.must_write[rel]
        live = live & ~masks.must_write[rel] | masks.may_read[rel]
        old_live, old_acc = masks.live_before[rel], masks.must_write_acc[rel]
        if live == old_live and acc == old_acc:
            return False
        if env.every_path and (
            masks.may_read[rel] or masks.must_write[rel] or rel == 0 or env.aux[insn_idx].prune_point
        ):
            _log_change(env, instance, "live", frame, insn_idx, old_live, live)
            _log_change(env, instance, "written", frame, insn_idx, old_acc, acc)
        masks.live_before[rel] = live
        masks.must_write_acc[rel] = acc
        return True

    def _to_caller(self, env: Env, instance: _Instance) -> None:
        """What a function reads and surely writes of its callers' stacks happens at the call."""
        sites, starts = instance.callsites, instance.starts
        outer = self._instance(env, (*sites[:-2], starts[-2]), starts[:-1])
        callsite = sites[-2]
        saved = self._writes
        self._writes = {}
        for frame in range(len(sites) - 1):
            masks = instance.frames[frame]
            if masks is None:
                continue
            if masks.must_write_acc[0]:
                self._writes[frame] = masks.must_write_acc[0]
            self._read(outer, frame, callsite, masks.live_before[0])
        self._commit(outer, callsite - outer.start)
        self._writes = saved

    # ---- asking ----------------------------------------------------------------------------

    def prepare(self, env: Env, state: VerifierState) -> None:
        """The questions that follow are about this state."""
        self._query = [self._lookup(env, state, i) for i in range(len(state.frames))]
        self._query_insn = state.insn_idx

    def alive(self, env: Env, frame: int, spi: int) -> bool:
        """Whether a slot may be read from here on, in this function or after returning to its callers."""
        top = self._query[-1]
        if _live(top, self._query_insn, frame, spi):
            return True
        for i in range(frame, len(self._query) - 1):
            site = top.callsites[i]
            at = site if env.aux[site].calls_callback else site + 1
            if _live(self._query[i], at, frame, spi):
                return True
        return False


def _live(instance: _Instance, insn_idx: int, frame: int, spi: int) -> bool:
    masks = instance.frames[frame]
    return masks is not None and bool(masks.live_before[insn_idx - instance.start] >> spi & 1)


def _chain(instance: _Instance) -> str:
    return "(" + ",".join(str(site) for site in instance.callsites) + ")"


def _log_change(
    env: Env, instance: _Instance, word: str, frame: int, insn_idx: int, old: int, new: int
) -> None:
    changed = old ^ new
    if not changed:
        return
    env.log.write(f"{_chain(instance)} frame {frame} insn {insn_idx} ")
    if new & changed:
        env.log.write(f"+{word} {slots_mask_text(new & changed)} ")
    if ~new & changed:
        env.log.write(f"-{word} {slots_mask_text(~new & changed)}")
    env.log.write("\n")
