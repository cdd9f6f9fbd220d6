# SPDX-License-Identifier: GPL-2.0-only
"""``bpfsim cbpf``: classic BPF programs, converted as the kernel does it and run over captures."""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .errors import InputError, Status
from .options import common
from .output import print_json, print_line, print_table

if TYPE_CHECKING:
    from kernel_model.classic.insn import SockFilter
    from kernel_model.classic.prog import ClassicProg
    from sim.machine import Machine

ENGINES = ("jit", "interpreter")
_BUFFER = 1 << 16

# System calls and options of Linux on x86-64.
_SOCKET, _RECVFROM, _SETSOCKOPT = 41, 45, 54
_AF_PACKET, _SOCK_RAW = 17, 3
_SOL_SOCKET, _SO_ATTACH = 1, 26


@click.command
@click.argument("file", metavar="FILE")
@click.option("--input", "input_path", metavar="PCAP", help="Frames to filter (pcap or pcapng).")
@click.option("--seccomp", is_flag=True, help="Check and convert by the rules of seccomp filters.")
@common
def cbpf(file: str, input_path: str | None, seccomp: bool, seed: int, as_json: bool, verbose: int) -> Status:
    """Show a classic BPF program and the eBPF that it becomes.

    FILE is the output of tcpdump -ddd or -dd, or text in the language of bpf_asm; - is standard input.
    With a capture, the program is attached to a packet socket (SO_ATTACH_FILTER), and both engines say how
    many bytes of each frame they keep. -v shows every frame.
    """
    from kernel_model.classic.prog import create_seccomp_filter, create_socket_filter
    from sim import Machine

    if seccomp and input_path is not None:
        raise InputError("cbpf: seccomp filters see no packets: --seccomp goes without --input")
    insns = _read(file)
    with Machine.boot(seed=seed) as machine:
        prog = (
            create_seccomp_filter(machine.kernel, insns)
            if seccomp
            else create_socket_filter(machine.kernel, insns)
        )
        classic, converted = _listings(machine, prog)
        prog.put(machine.kernel)
    kept = {engine: _filter(insns, input_path, seed, engine) for engine in ENGINES} if input_path else {}
    agree = len({tuple(lengths) for lengths in kept.values()}) <= 1
    if as_json:
        print_json(
            "cbpf",
            file=file,
            classic=classic,
            ebpf=converted,
            input=input_path,
            kept=kept or None,
            agree=agree if kept else None,
        )
    else:
        _print(file, classic, converted, kept, agree, bool(verbose))
    return Status.OK if agree else Status.DIFFERS


def _read(file: str) -> list[SockFilter]:
    from kernel_model.classic.listing import read_program
    from kernel_model.classic.text import ClassicSyntaxError

    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text()
        return read_program(text)
    except UnicodeDecodeError:
        raise InputError(f"{file}: not a text file") from None
    except ClassicSyntaxError as error:
        raise InputError(f"{file}: {error}") from None


def _listings(machine: Machine, prog: ClassicProg) -> tuple[list[str], list[dict[str, Any]]]:
    """The classic program line by line, and the eBPF with the classic instruction of each slot."""
    from kernel_model.classic.text import tcpdump_insn
    from kernel_model.isa.disasm import line
    from kernel_model.isa.insn import Insn

    text = machine.kernel.text
    base = text.symbol("__bpf_call_base")

    def name(insn: Insn) -> str | None:
        found = text.lookup(base + insn.imm)
        return found[0] if found and not found[1] else None

    ebpf = prog.verified.insns
    origin: list[int | None] = [None] * prog.starts[0] + list(prog.verified.orig_index[prog.starts[0] :])
    return (
        [tcpdump_insn(insn, at) for at, insn in enumerate(prog.classic)],
        [
            {"slot": at, "bytes": insn.pack().hex(), "text": line(ebpf, at, name), "classic": origin[at]}
            for at, insn in enumerate(ebpf)
        ],
    )


def _filter(insns: list[SockFilter], path: str, seed: int, engine: str) -> list[int | None]:
    """The bytes kept of each frame, through a packet socket; None for frames that the card does not take."""
    from sim import Machine
    from sim.job.job import MAX_FRAME, MIN_FRAME
    from sim.userspace.pcap import read_pcap

    frames = read_pcap(path)
    with Machine.boot(seed=seed, jit=engine == "jit") as machine:
        socket = _PacketSocket(machine, insns)
        out: list[int | None] = []
        for frame in frames:
            if not MIN_FRAME <= len(frame.data) <= MAX_FRAME:
                out.append(None)
                continue
            machine.nic[0].inject(frame.data)
            machine.run_until_idle()
            out.append(socket.receive())
        return out


class _PacketSocket:
    """A packet socket of a process of the machine, with the program attached to it."""

    def __init__(self, machine: Machine, insns: list[SockFilter]) -> None:
        from kernel_model.classic.insn import SOCK_FPROG, encode

        self._process = process = machine.process()
        code = encode(insns)
        self._buffer = process.alloc(_BUFFER)
        at = process.alloc(SOCK_FPROG.size + len(code))
        process.write(at, SOCK_FPROG.pack(len(insns), at + SOCK_FPROG.size) + code)
        self._fd = self._call("socket", _SOCKET, _AF_PACKET, _SOCK_RAW, 0)
        self._call("SO_ATTACH_FILTER", _SETSOCKOPT, self._fd, _SOL_SOCKET, _SO_ATTACH, at, SOCK_FPROG.size)

    def _call(self, what: str, number: int, *args: int) -> int:
        from sim.userspace.bpf import SyscallError

        result = self._process.syscall(number, *args)
        if result < 0:
            raise SyscallError(-result, what)
        return result

    def receive(self) -> int:
        """The length of the frame that arrived, 0 when the filter dropped it."""
        got = self._process.syscall(_RECVFROM, self._fd, self._buffer, _BUFFER, 0, 0, 0)
        return 0 if got == -errno.EAGAIN else got


def _print(
    file: str,
    classic: list[str],
    ebpf: list[dict[str, Any]],
    kept: dict[str, list[int | None]],
    agree: bool,
    verbose: bool,
) -> None:
    print_line(f"{file}: {len(classic)} instructions, {len(ebpf)} of eBPF", "bold")
    before: int | None = None
    for each in ebpf:
        if each["classic"] is not None and each["classic"] != before:
            print_line(f"  {classic[each['classic']]}")
        before = each["classic"]
        code = f"{each['bytes']} " if verbose else ""
        print_line(f"      {each['slot']:4}: {code}{each['text']}")
    if not kept:
        return
    lengths = list(zip(*kept.values(), strict=True))
    taken = [each for each in lengths if None not in each]
    rows = [
        ("kept", *(str(sum(bool(each[at]) for each in taken)) for at in range(len(kept)))),
        ("dropped", *(str(sum(not each[at] for each in taken)) for at in range(len(kept)))),
        ("bytes kept", *(str(sum(each[at] or 0 for each in taken)) for at in range(len(kept)))),
    ]
    skipped = f" ({len(lengths) - len(taken)} skipped: shorter than a header or longer than a buffer)"
    print_line(f"{len(taken)} frames{skipped if len(taken) != len(lengths) else ''}", "bold")
    print_table("", ("frames", *kept), rows, "lrr")
    differing = [at for at, each in enumerate(lengths) if len(set(each)) > 1]
    shown = range(len(lengths)) if verbose else differing[:8]
    if shown:
        cells = [
            (str(at), *("-" if length is None else str(length) for length in lengths[at])) for at in shown
        ]
        print_table("", ("frame", *kept), cells, "rrr")
    if agree:
        print_line("both engines agree", "bold green")
    else:
        print_line(f"{len(differing)} frames differ", "bold red")
