# SPDX-License-Identifier: GPL-2.0-only
"""The instruction table: every row is found by its own encoding, and only by that."""

from __future__ import annotations

import os
import re

import host_bpf
import pytest
from insn_examples import example_of

from kernel_model.isa.disasm import line
from kernel_model.isa.insn import Insn, encode
from kernel_model.isa.macros import BPF_EXIT_INSN, BPF_JMP_IMM, BPF_MOV64_IMM
from kernel_model.isa.opcodes import BPF_JEQ, LD_IMM64
from kernel_model.isa.table import (
    BY_CODE,
    BY_NAME,
    TABLE,
    Effect,
    InsnRow,
    Origin,
    Use,
    known_opcode,
    row_for,
)

UAPI = [row for row in TABLE if row.origin is Origin.UAPI]
FIELDS = ("dst", "src", "off", "imm")
REFUSED = "reserved fields|unknown opcode|invalid (may_goto|bpf_ld_imm64|atomic|BPF|ld_imm64|alu)|" + (
    "uses invalid atomic opcode|unrecognized bpf_ld_imm64|addr_space_cast insn can only convert"
)


def test_names_are_unique() -> None:
    assert len(BY_NAME) == len(TABLE)


def test_counts() -> None:
    # 2 widths x (12 operations + 2 signed) x 2 sources, negation, 5 sign-extending moves, 9 byte
    # swaps and two arena casts; loads and stores; atomics; constants; jumps, calls and exit.
    alu = 2 * 14 * 2 + 2 + 5 + 9 + 2
    memory = 4 + 4 + 4 + 3 + 3 + 3
    atomic = 2 * 10 + 4 * 2
    control = 2 * 11 * 2 + 2 + 1 + 3 + 1
    assert len(UAPI) == alu + memory + atomic + 7 + control


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_row_is_found_by_its_encoding(row: InsnRow) -> None:
    insn = example_of(row)[0]
    assert row_for(insn) is (row if row.origin is Origin.UAPI else None)
    assert row_for(insn, internal=True) is (None if row.origin is Origin.INVALID else row)


@pytest.mark.parametrize("row", UAPI, ids=lambda row: row.name)
def test_reserved_fields_are_refused(row: InsnRow) -> None:
    insn = example_of(row)[0]
    for name in FIELDS:
        if getattr(row, name) == 0:
            assert row_for(insn._replace(**{name: 5})) is None or row.code == LD_IMM64


def test_unknown_opcodes() -> None:
    assert not known_opcode(0x8D)  # callx
    assert not known_opcode(0x99)  # LDX_MEMSX_DW
    assert not known_opcode(0x0D)  # gotox, Linux 6.19
    assert not known_opcode(0xF5)  # the kernel's tail call
    assert known_opcode(0x38) is False  # LD_ABS of eight bytes
    assert row_for(Insn(0x8D)) is None


def test_every_opcode_has_one_effect() -> None:
    for rows in BY_CODE.values():
        assert len({row.effect for row in rows}) == 1


def test_uses_agree_with_effects() -> None:
    for row in TABLE:
        assert (row.off is Use.DISP) == (row.effect in (Effect.LOAD, Effect.STORE, Effect.ATOMIC)), row.name
        jumps = Use.JUMP in (row.off, row.imm)
        call = row.name in ("JMP_CALL_PSEUDO",)
        assert jumps == (row.effect in (Effect.JUMP, Effect.BRANCH) or call), row.name


# ---- what the host's kernel says --------------------------------------------------------------


_WAYS_IN = 6


def _host_log(insns: list[Insn]) -> str:
    """The host's log of a program with ``insns`` at slot ``_WAYS_IN``.

    The slots behind can be reached without them, so that jumps and exits leave no dead code.
    """
    ways = [BPF_JMP_IMM(BPF_JEQ, 1, 0, _WAYS_IN - 1 + len(insns)) for _ in range(_WAYS_IN)]
    tail = [BPF_MOV64_IMM(0, 0)] * 10 + [BPF_EXIT_INSN()]
    try:
        loaded = host_bpf.prog_load_log(encode([*ways, *insns, *tail]), log_level=2)
    except host_bpf.HostRefused as error:
        return error.log
    os.close(loaded.fd)
    return loaded.log


@host_bpf.host_kernel
def test_host_knows_the_same_opcodes() -> None:
    for code in range(256):
        log = _host_log([Insn(code, 1), Insn(0)] if code == LD_IMM64 else [Insn(code, 1)])
        # The mode of loads and stores is looked at before the opcode.
        refused = (
            re.search(rf"unknown opcode {code:02x}|BPF_(LDX|STX|ST) uses reserved fields", log) is not None
        )
        assert refused == (not known_opcode(code)), f"{code:#x}: {log}"


@host_bpf.host_kernel
def test_host_refuses_the_same_reserved_fields() -> None:
    judged = 0
    for row in UAPI:
        good = example_of(row, off=1)
        variants = [good[0]._replace(**{name: 5}) for name in FIELDS if getattr(row, name) == 0]
        for insn in (good[0], *variants):
            log = _host_log([insn, *good[1:]])
            if "processed" not in log and not re.search(REFUSED, log):
                continue
            judged += 1
            refused = re.search(REFUSED, log) is not None
            # What names a map, type or function that is not there is refused for that first.
            if row.effect is not Effect.CONST and row.name not in ("JMP_CALL_PSEUDO", "JMP_CALL_KFUNC"):
                assert refused == (row_for(insn) is None), f"{row.name} {insn}: {log}"
    assert judged > 400


@host_bpf.host_kernel
def test_host_prints_the_same_text() -> None:
    printed = set()
    for row in TABLE:
        for off, imm, src in ((1, 7, 2), (3, -1, 9), (0, 0x7FFFFFFF, 0), (2, 12, 5)):
            insns = example_of(row, off=off, imm=imm, src=src)
            found = re.search(rf"^{_WAYS_IN}: (\(.*?|BUG_.*?)(\s+; .*)?$", _host_log(insns), re.M)
            if found:
                ours = line(insns, 0)
                # Names of helpers are the helper table's.
                theirs = re.sub(r"call (bpf_\w+)#", "call unknown#", found[1])
                assert ours == theirs
                printed.add(row.name)
    silent = {row.name for row in UAPI} - printed
    # Refused before anything is printed: constants that name nothing, calls of what is not there.
    assert silent <= {
        *(name for name in BY_NAME if name.startswith("LD_IMM_DW_")),
        "JMP_CALL_PSEUDO",
        "JMP_CALL_KFUNC",
    }
