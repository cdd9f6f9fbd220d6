# SPDX-License-Identifier: GPL-2.0-only
"""How an object fares on many kernels, each known by its BTF alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from kernel_model.btf.vmlinux import parse_kernel_btf

from ..userspace.btf_ext import CoreRelo
from ..userspace.core import CoreError, Resolver
from ..userspace.core.kinds import CoreKind
from ..userspace.object import ObjectSpec, ProgSpec
from .judge import Options, judge

_QUESTIONS = (
    CoreKind.field_exists,
    CoreKind.type_exists,
    CoreKind.type_matches,
    CoreKind.enumval_exists,
    CoreKind.type_size,
)
"""Relocations for which "it is not there" is an answer and no failure."""


@dataclass
class Fate:
    """One program on one kernel.

    ``resolved`` relocations found what they ask for; ``absent`` ones were questions answered with no;
    ``missing`` have no value, so that the program loads only if it does not reach them; ``errors`` cannot be
    done at all. The texts name the access. ``verdict`` is ``accepted``, ``rejected`` ..., ``reason`` why.
    """

    resolved: int = 0
    absent: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    verdict: str = ""
    reason: str = ""

    @property
    def loads(self) -> bool:
        """The program can be used there."""
        return self.verdict == "accepted"

    def to_json(self) -> dict[str, Any]:
        """All fields by name."""
        return dict(vars(self))


@dataclass
class Row:
    """One program: how many relocations it has, and its fate by the name of the kernel."""

    object: str
    program: str
    relocations: int
    fates: dict[str, Fate] = field(default_factory=dict)


def portability(spec: ObjectSpec, kernels: Mapping[str, bytes], options: Options) -> Iterator[Row]:
    """Each program on each kernel; ``kernels`` are BTF blobs by name. BtfError for a bad one."""
    resolvers = {
        name: Resolver(spec.btf_types, parse_kernel_btf(data)) if spec.btf_types is not None else None
        for name, data in kernels.items()
    }
    for prog in spec.programs.values():
        row = Row(spec.path, prog.name, len(prog.core))
        for name, data in kernels.items():
            fate = row.fates[name] = Fate()
            resolver = resolvers[name]
            for relo in prog.core if resolver is not None else ():
                _note(fate, resolver, relo)
            _judge(fate, spec, prog, data, options)
        yield row


def _note(fate: Fate, resolver: Resolver | None, relo: CoreRelo) -> None:
    assert resolver is not None
    try:
        found = resolver.resolve(relo.type_id, relo.access, relo.kind)
    except CoreError as error:
        fate.errors.append(f"insn #{relo.insn}: {error}")
        return
    if found.resolved:
        fate.resolved += 1
    elif relo.kind in _QUESTIONS:
        fate.absent.append(str(found.local))
    else:
        fate.missing.append(str(found.local))


def _judge(fate: Fate, spec: ObjectSpec, prog: ProgSpec, btf: bytes, options: Options) -> None:
    # At level 1 the log shows the instruction, by which the loader knows its own relocation.
    asked = Options(options.prog_type, options.seed, log_level=1, explain=False, btf=btf)
    verdict = judge(spec, prog.name, asked)
    fate.verdict, fate.reason = verdict.verdict, verdict.error
