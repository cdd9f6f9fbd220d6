# SPDX-License-Identifier: GPL-2.0-only
"""``bpfsim disasm``: BPF as in the object or after the verifier, and x86 as the JIT made it."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from .errors import InputError, Status
from .options import common, parse_prog_type, prog_type_option
from .output import print_json, print_line

if TYPE_CHECKING:
    from kernel_model.isa.disasm import CallNames
    from kernel_model.isa.insn import Insn
    from sim.machine import Machine
    from sim.userspace.loader import LoadedObject
    from sim.userspace.object import ObjectSpec

Listing = list[dict[str, Any]]
"""Lines of code: ``at`` (a slot or an address), ``bytes`` in hex digits, ``text``."""


def _helper_name(insn: Insn) -> str | None:
    """The helper that a call names by number."""
    from kernel_model.uapi.enums import bpf_func_id

    if insn.src or insn.imm not in set(bpf_func_id):
        return None
    return "bpf_" + bpf_func_id(insn.imm).name.removeprefix("BPF_FUNC_")


def _bpf(insns: tuple[Insn, ...], notes: dict[int, str], names: CallNames = _helper_name) -> Listing:
    from kernel_model.isa.disasm import line
    from kernel_model.isa.insn import encode
    from kernel_model.isa.opcodes import LD_IMM64

    out: Listing = []
    at = 0
    while at < len(insns):
        size = 2 if insns[at].code == LD_IMM64 else 1
        text = line(insns, at, names)
        if at in notes:
            text += f"  ; {notes[at]}"
        out.append({"at": at, "bytes": encode(insns[at : at + size]).hex(), "text": text})
        at += size
    return out


def _raw(spec: ObjectSpec, names: list[str]) -> Iterator[tuple[str, Listing]]:
    for name in names:
        prog = spec.programs[name]
        notes = {ref.insn: ref.map for ref in prog.map_refs}
        notes |= {sub.start: f"{sub.name}()" for sub in prog.subprogs if sub.start}
        yield name, _bpf(prog.insns, notes)


def _xlated(machine: Machine, loaded: LoadedObject) -> Iterator[tuple[str, Listing]]:
    """The program as BPF_OBJ_GET_INFO_BY_FD gives it: map ids, addresses of helpers relative to the base."""
    from kernel_model.isa import opcodes as op
    from kernel_model.isa.insn import decode

    bpf = loaded.bpf
    by_id = {bpf.obj_info(each.fd, "bpf_map_info")[0]["id"]: name for name, each in loaded.maps.items()}
    for name, each in loaded.progs.items():
        size = bpf.obj_info(each.fd)[0]["xlated_prog_len"]
        dumped = decode(bpf.obj_info(each.fd, xlated_prog_insns=size)[1]["xlated_prog_insns"])
        # Of a linked call the number is the callee's; how far away it is stands beside.
        insns = tuple(
            insn._replace(imm=insn.off, off=0)
            if insn.code == op.CALL and insn.src == op.BPF_PSEUDO_CALL and insn.off
            else insn
            for insn in dumped
        )
        notes = {
            slot: f"map {by_id.get(insn.imm, insn.imm)}"
            for slot, insn in enumerate(insns)
            if insn.code == op.LD_IMM64 and insn.src in (op.BPF_PSEUDO_MAP_FD, op.BPF_PSEUDO_MAP_VALUE)
        }
        yield name, _bpf(insns, notes, _call_names(machine))


def _call_names(machine: Machine) -> CallNames:
    """Names of kernel functions by the calls' distance from __bpf_call_base, as kallsyms knows them."""
    from kernel_model.uapi.enums import bpf_func_id

    text = machine.kernel.text
    base = text.symbol("__bpf_call_base")

    def name(insn: Insn) -> str | None:
        if insn.imm == bpf_func_id.BPF_FUNC_tail_call:
            return "bpf_tail_call"
        found = text.lookup(base + insn.imm)
        return found[0] if found and not found[1] else None

    return name


def _jited(machine: Machine, loaded: LoadedObject) -> Iterator[tuple[str, Listing]]:
    """The images as BPF_OBJ_GET_INFO_BY_FD gives them, function by function."""
    from sim.trace.x86 import disassemble

    bpf = loaded.bpf
    for name, each in loaded.progs.items():
        info = bpf.obj_info(each.fd)[0]
        _, out = bpf.obj_info(
            each.fd,
            jited_prog_insns=info["jited_prog_len"],
            jited_ksyms=8 * info["nr_jited_ksyms"],
            jited_func_lens=4 * info["nr_jited_func_lens"],
        )
        count = info["nr_jited_ksyms"]
        starts = struct.unpack(f"<{count}Q", out["jited_ksyms"])
        sizes = struct.unpack(f"<{count}I", out["jited_func_lens"])
        at = 0
        for number, (addr, size) in enumerate(zip(starts, sizes, strict=True)):
            code = out["jited_prog_insns"][at : at + size]
            lines = disassemble(code, addr, machine.symbolise)
            label = f"{name}, function {number}" if number else name
            yield label, [{"at": hex(x.addr), "bytes": x.code.hex(), "text": x.text} for x in lines]
            at += size


@click.command
@click.argument("object_path", metavar="[OBJECT]", required=False)
@click.option("--hex", "hex_text", metavar="DIGITS", help="Disassemble these bytes instead of an object.")
@click.option("--xlated", "form", flag_value="xlated", help="After the verifier's fix-ups.")
@click.option("--jited", "form", flag_value="jited", help="x86-64 machine code (needs bpfsim[x86dis]).")
@click.option("--prog", metavar="NAME", help="Only this program.")
@prog_type_option
@common
def disasm(
    object_path: str | None,
    hex_text: str | None,
    form: str | None,
    prog: str | None,
    prog_type: str | None,
    seed: int,
    as_json: bool,
    verbose: int,
) -> Status:
    """Disassemble BPF programs, or the code the JIT made of them.

    By default the programs of OBJECT as the object has them, in the syntax of the verifier's log. -v shows
    the bytes of each instruction.
    """
    if (object_path is None) == (hex_text is None):
        raise InputError("disasm: give either OBJECT or --hex")
    if hex_text is not None:
        from kernel_model.isa.insn import decode

        if form is not None:
            raise InputError("disasm: --hex goes without --xlated and --jited")
        try:
            listings = [("", _bpf(tuple(decode(bytes.fromhex(hex_text))), {}))]
        except (ValueError, IndexError) as error:
            raise InputError(f"disasm: --hex: {error}") from None
    else:
        assert object_path is not None
        listings = _object_listings(object_path, form, prog, prog_type, seed)
    if as_json:
        programs = [{"program": name, "instructions": lines} for name, lines in listings]
        print_json("disasm", form=form or "bpf", programs=programs)
        return Status.OK
    for name, lines in listings:
        if name:
            print_line(f"{name}:", "bold")
        for each in lines:
            code = f"{each['bytes']:32} " if verbose else ""
            print_line(f"  {each['at']}: {code}{each['text']}")
    return Status.OK


def _object_listings(
    path: str, form: str | None, prog: str | None, prog_type: str | None, seed: int
) -> list[tuple[str, Listing]]:
    from dataclasses import replace

    from sim.userspace.object import ObjectError, read_object

    spec = read_object(path)
    if prog is not None and prog not in spec.programs:
        raise ObjectError(path, "", None, f"no program named '{prog}'")
    if form is None:
        return list(_raw(spec, list(spec.programs) if prog is None else [prog]))
    from sim import Machine
    from sim.job.job import load_object

    spec = replace(spec, maps={name: replace(each, slots=()) for name, each in spec.maps.items()})
    with Machine.boot(seed=seed) as machine:
        loaded = load_object(
            machine.process(), spec, None if prog is None else [prog], parse_prog_type(prog_type)
        )
        show = _jited if form == "jited" else _xlated
        return list(show(machine, loaded))
