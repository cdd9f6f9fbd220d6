# SPDX-License-Identifier: GPL-2.0-only
"""How packets reach a program: through the NIC at the XDP hook, or by BPF_PROG_TEST_RUN for other types."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from kernel_model.errors import NotModelled
from kernel_model.net.device import XDP_ACTIONS
from kernel_model.uapi.enums import bpf_attach_type, bpf_prog_type

from ..machine import FIRST_NIC_IFINDEX, Machine
from ..userspace.bpf import Bpf
from ..userspace.pcap import Frame

BURST = 64
"""Frames that arrive at once; time passes between bursts as it did in the capture."""

Progress = Callable[[int], None]
"""Told how many more frames are done."""


@dataclass(frozen=True)
class FrameOutcome:
    """What happened to one frame: the verdict as a number and by name, and the frame afterwards."""

    verdict: int
    name: str
    data: bytes


class Hook(Protocol):
    """A place that runs a program over frames. Holds no state of the machine, so restores do not hurt."""

    name: str

    @property
    def verdicts(self) -> Sequence[str]: ...
    def attach(self, bpf: Bpf, prog_fd: int) -> None: ...
    def feed(
        self,
        machine: Machine,
        bpf: Bpf,
        prog_fd: int,
        frames: Sequence[Frame],
        progress: Progress,
        burst: int = BURST,
    ) -> list[FrameOutcome]: ...
    def feed_again(self, machine: Machine, bpf: Bpf, prog_fd: int, frames: Sequence[Frame]) -> None: ...


class XdpHook:
    """BPF_LINK_CREATE on the first card's device; frames arrive on its wire."""

    name = "XDP on eth0"
    verdicts = tuple(action.removeprefix("XDP_").lower() for action in XDP_ACTIONS)

    def attach(self, bpf: Bpf, prog_fd: int) -> None:
        """Create the link (it lives as long as its descriptor)."""
        bpf.link_create(prog_fd, FIRST_NIC_IFINDEX, bpf_attach_type.BPF_XDP)

    def feed(
        self,
        machine: Machine,
        bpf: Bpf,
        prog_fd: int,
        frames: Sequence[Frame],
        progress: Progress,
        burst: int = BURST,
    ) -> list[FrameOutcome]:
        """Inject all frames in bursts and let the machine work them off."""
        device, card = machine.device(0), machine.nic[0]
        device.outcomes = []
        for at in range(0, len(frames), burst):
            together = frames[at : at + burst]
            follow_clock(machine, frames[0], together[0])
            for frame in together:
                card.inject(frame.data)
            machine.run_until_idle()
            progress(len(together))
        return [
            FrameOutcome(each.verdict, self.verdict(each.verdict), each.frame) for each in device.outcomes
        ]

    def feed_again(self, machine: Machine, bpf: Bpf, prog_fd: int, frames: Sequence[Frame]) -> None:
        """One burst more, nothing noted."""
        machine.device(0).outcomes = None
        for frame in frames:
            machine.nic[0].inject(frame.data)
        machine.run_until_idle()

    def verdict(self, number: int) -> str:
        """The action's name; the driver treats unknown ones as aborted."""
        return self.verdicts[number] if number < len(self.verdicts) else f"unknown({number})"


class TestRunHook:
    """BPF_PROG_TEST_RUN, one frame a call, for program types whose hook is not modelled."""

    __test__ = False

    def __init__(self, verdicts: Sequence[str], name_of: Callable[[int], str]) -> None:
        self.name = "BPF_PROG_TEST_RUN"
        self.verdicts = tuple(verdicts)
        self._name_of = name_of

    def attach(self, bpf: Bpf, prog_fd: int) -> None:
        """Nothing: every run names its program."""

    def feed(
        self,
        machine: Machine,
        bpf: Bpf,
        prog_fd: int,
        frames: Sequence[Frame],
        progress: Progress,
        burst: int = BURST,
    ) -> list[FrameOutcome]:
        """One system call a frame."""
        outcomes = []
        for frame in frames:
            follow_clock(machine, frames[0], frame)
            run = bpf.prog_test_run(prog_fd, frame.data)
            outcomes.append(FrameOutcome(run.retval, self._name_of(run.retval), run.data))
            progress(1)
        return outcomes

    def feed_again(self, machine: Machine, bpf: Bpf, prog_fd: int, frames: Sequence[Frame]) -> None:
        """The first frame as often as there are frames, in one call."""
        bpf.prog_test_run(prog_fd, frames[0].data, repeat=len(frames))


def follow_clock(machine: Machine, first: Frame, frame: Frame) -> None:
    """Let as much time pass since ``first`` as in the capture, unless more has passed already."""
    ahead = frame.time_ns - first.time_ns - machine.clock.now()
    if ahead > 0:
        machine.clock.advance(ahead)


_TC_ACTIONS = {
    0xFFFF_FFFF: "unspec",
    0: "ok",
    1: "reclassify",
    2: "shot",
    3: "pipe",
    4: "stolen",
    5: "queued",
    6: "repeat",
    7: "redirect",
    8: "trap",
}
"""enum of include/uapi/linux/pkt_cls.h, by the value as BPF_PROG_TEST_RUN returns it."""


def _tc_name(number: int) -> str:
    return _TC_ACTIONS.get(number, f"unknown({number})")


def _socket_name(number: int) -> str:
    return "keep" if number else "drop"


_T = bpf_prog_type
_TEST_RUN: dict[int, tuple[Sequence[str], Callable[[int], str]]] = {
    _T.BPF_PROG_TYPE_SOCKET_FILTER: (("drop", "keep"), _socket_name),
    _T.BPF_PROG_TYPE_SCHED_CLS: (tuple(_TC_ACTIONS.values()), _tc_name),
    _T.BPF_PROG_TYPE_SCHED_ACT: (tuple(_TC_ACTIONS.values()), _tc_name),
}


def hook_for(prog_type: int) -> Hook:
    """The hook for a program type; NotModelled for types that no packet reaches."""
    if prog_type == _T.BPF_PROG_TYPE_XDP:
        return XdpHook()
    if prog_type in _TEST_RUN:
        return TestRunHook(*_TEST_RUN[prog_type])
    raise NotModelled(f"packets for programs of type {_T(prog_type).name}")
