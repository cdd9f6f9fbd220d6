# SPDX-License-Identifier: GPL-2.0-only
"""BPF_PROG_LOAD of bundled programs on two kernels, whole or damaged in the same way on both."""

from __future__ import annotations

import random
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kernel_suite import Verdict

import guests
from kernel_model.isa import opcodes as op
from kernel_model.isa.insn import Insn, decode, encode
from sim.userspace.bpf import Bpf, SyscallError, VerifierError
from sim.userspace.loader import load
from sim.userspace.object import ObjectSpec, read_object

MARK = 0x7A000000
"""An instruction's ``imm`` of MARK + n stands for the fd of the object's n-th map."""


def bundled() -> list[Path]:
    """Every object in guests/ that is accepted."""
    root = Path(guests.path("xdp_filter.o")).parent
    return sorted(path for path in root.rglob("*.o") if "rejected" not in path.parts)


@dataclass(frozen=True)
class Request:
    """One BPF_PROG_LOAD: ``more`` are further fields of the attribute, ``blobs`` go behind pointers.

    ``btf`` None stands for the object's own BTF, loaded once; bytes are loaded for this request alone.
    ``fd_array`` holds numbers of maps and, where there is no such map, plain descriptors.
    """

    prog_type: int
    insns: tuple[Insn, ...]
    license: str = "GPL"
    more: Mapping[str, int] = field(default_factory=dict)
    blobs: Mapping[str, bytes] = field(default_factory=dict)
    btf: bytes | None = None
    fd_array: tuple[int, ...] = ()


def requests(spec: ObjectSpec) -> list[Request]:
    """The requests that loading the object makes, with maps by number."""
    names = list(spec.maps)
    out = []
    for prog in spec.programs.values():
        insns = list(prog.insns)
        for ref in prog.map_refs:
            insns[ref.insn] = insns[ref.insn]._replace(imm=MARK + names.index(ref.map))
        more = {"expected_attach_type": prog.attach_type, "prog_flags": prog.flags}
        blobs = {}
        if spec.btf is not None and prog.func_info:
            blobs["func_info"] = prog.func_info
            more["func_info_rec_size"] = prog.func_info_rec_size
            more["func_info_cnt"] = len(prog.func_info) // prog.func_info_rec_size
            if prog.line_info:
                blobs["line_info"] = prog.line_info
                more["line_info_rec_size"] = prog.line_info_rec_size
                more["line_info_cnt"] = len(prog.line_info) // prog.line_info_rec_size
        out.append(Request(int(prog.type or 1), tuple(insns), spec.license, more, blobs))
    return out


class Kernel:
    """One kernel with the object's maps and BTF in it."""

    def __init__(self, process: Any, path: Path) -> None:
        self.bpf = Bpf(process)
        self.spec = read_object(path)
        self.loaded = load(process, self.spec)
        self._fds = [self.loaded.maps[name].fd for name in self.spec.maps if name in self.loaded.maps]

    def close(self) -> None:
        self.loaded.close()

    def _real(self, number: int) -> int:
        at = number - MARK
        return self._fds[at] if 0 <= at < len(self._fds) else number

    def load(self, request: Request, level: int = 0) -> Verdict:
        """The verdict; the program is closed again."""
        fields: dict[str, Any] = dict(request.more)
        own = -1
        try:
            if request.btf is not None:
                own = fields["prog_btf_fd"] = self.bpf.btf_load(request.btf)
            elif self.loaded.btf_fd is not None and request.blobs:
                fields.setdefault("prog_btf_fd", self.loaded.btf_fd)
        except SyscallError as error:
            return Verdict(error.errno or 0, "", "BTF_LOAD")
        insns = [insn._replace(imm=self._real(insn.imm)) for insn in request.insns]
        addresses = self._put(request)
        try:
            fd, log = self.bpf.prog_load(
                request.prog_type, insns, request.license, log_level=level,
                func_info=request.blobs.get("func_info", b""), line_info=request.blobs.get("line_info", b""),
                **addresses, **fields,
            )  # fmt: skip
        except VerifierError as error:
            return Verdict(error.errno or 0, error.log)
        finally:
            if own >= 0:
                self.bpf.close(own)
        self.bpf.close(fd)
        return Verdict(0, log)

    def _put(self, request: Request) -> dict[str, int]:
        """Blobs that the library does not place itself, in memory of their own."""
        out = {}
        process = self.bpf.process
        blobs = {name: blob for name, blob in request.blobs.items() if name not in ("func_info", "line_info")}
        if request.fd_array:
            fds = [self._real(number) for number in request.fd_array]
            blobs["fd_array"] = struct.pack(f"<{len(fds)}i", *fds)
        for name, blob in blobs.items():
            out[name] = process.alloc(max(len(blob), 8))
            process.write(out[name], blob)
        return out


# ---- damage ---------------------------------------------------------------------------------

_EDGES = (0, 1, 2, 3, 4, 7, 8, 15, 16, 31, 32, 63, 64, 255, 256, 511, 512, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF)
_CODES = tuple(range(256))


def mutate_insn(insns: tuple[Insn, ...], rng: random.Random) -> tuple[Insn, ...]:
    """One instruction changed in one field (or replaced by its neighbour)."""
    at = rng.randrange(len(insns))
    insn = insns[at]
    what = rng.randrange(7)
    if what == 0:
        insn = insn._replace(code=insn.code ^ 1 << rng.randrange(8))
    elif what == 1:
        insn = insn._replace(dst=rng.randrange(11))
    elif what == 2:
        insn = insn._replace(src=rng.randrange(11))
    elif what == 3:
        insn = insn._replace(off=max(-0x8000, min(0x7FFF, insn.off + rng.choice((-8, -4, -1, 1, 2, 4, 8)))))
    elif what == 4:
        value = insn.imm + rng.choice((-8, -1, 1, 4, 64)) if rng.random() < 0.5 else rng.choice(_EDGES)
        insn = insn._replace(imm=(value + (1 << 31)) % (1 << 32) - (1 << 31))
    elif what == 5:
        insn = insns[rng.randrange(len(insns))]
    else:
        insn = insn._replace(code=rng.choice(_CODES))
    return (*insns[:at], insn, *insns[at + 1 :])


def _damage(blob: bytes, rng: random.Random) -> bytes:
    """Some bytes or words changed; sometimes cut or lengthened."""
    data = bytearray(blob)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if not data:
            break
        if rng.random() < 0.5:
            data[rng.randrange(len(data))] = rng.randrange(256)
        else:
            at = rng.randrange(len(data) // 4 or 1) * 4
            data[at : at + 4] = struct.pack("<I", rng.choice(_EDGES))[: len(data) - at]
    if rng.random() < 0.1:
        del data[rng.randrange(len(data) + 1) :]
    return bytes(data)


def _damaged_insns(request: Request, rng: random.Random, spec: ObjectSpec) -> Request:
    data = _damage(encode(request.insns), rng)
    data = data[: len(data) // 8 * 8] or bytes(8)
    return replace(request, insns=tuple(decode(data)))


def _damaged_btf(request: Request, rng: random.Random, spec: ObjectSpec) -> Request:
    return replace(request, btf=_damage(spec.btf or b"", rng))


def _damaged_records(request: Request, rng: random.Random, spec: ObjectSpec) -> Request:
    name = rng.choice(("func_info", "line_info"))
    more, blobs = dict(request.more), dict(request.blobs)
    blob = blobs.get(name, bytes(32))
    what = rng.randrange(4)
    if what == 0:
        more[f"{name}_rec_size"] = rng.choice((0, 4, 7, 8, 12, 16, 20, 252, 256, 1 << 31))
    elif what == 1:
        more[f"{name}_cnt"] = rng.choice((0, 1, 2, 3, 100, 0xFFFFFFFF))
    else:
        blob = _damage(blob, rng)
    # Records lie in a page of zeroes, so that what is read past them is the same on both kernels.
    blobs[name] = blob + bytes(65536 - len(blob)) if len(blob) < 65536 else blob
    return replace(request, more=more, blobs=blobs)


def _fd_array(request: Request, rng: random.Random, spec: ObjectSpec) -> Request:
    fds = tuple(rng.choice((MARK, MARK + 1, MARK + 2, -1, 0, 9999)) for _ in range(rng.randrange(1, 5)))
    more = dict(request.more)
    more["fd_array_cnt"] = rng.choice((0, len(fds), len(fds), 1, 3))
    fds += (-1,) * 64
    insns = tuple(
        insn._replace(src=insn.src + 4, imm=rng.choice((0, 0, 1, 2, 3)))
        if insn.code == op.LD_IMM64 and insn.src in (1, 2) and rng.random() < 0.7
        else insn
        for insn in request.insns
    )
    return replace(request, insns=insns, more=more, fd_array=fds)


def _core_relos(request: Request, rng: random.Random, spec: ObjectSpec) -> Request:
    records = b"".join(
        struct.pack("<IIII", rng.choice((0, 8, 16, 0xFFFFFFFF)), rng.choice(_EDGES), rng.choice(_EDGES),
                    rng.randrange(14))
        for _ in range(rng.randrange(1, 4))
    )  # fmt: skip
    more = dict(request.more)
    more["core_relo_cnt"] = rng.choice((len(records) // 16, 1, 100, 0xFFFFFFFF))
    more["core_relo_rec_size"] = rng.choice((16, 16, 16, 8, 0, 20, 512))
    return replace(request, more=more, blobs={**request.blobs, "core_relos": records + bytes(65536)})


def _fields(request: Request, rng: random.Random, spec: ObjectSpec) -> Request:
    more = dict(request.more)
    name = rng.choice(
        ("prog_flags", "expected_attach_type", "attach_btf_id", "attach_prog_fd",
         "kern_version", "prog_token_fd", "fd_array_cnt", "signature_size", "keyring_id", "log_true_size")
    )  # fmt: skip
    more[name] = rng.choice((*_EDGES, 1 << rng.randrange(31)))
    if name == "attach_prog_fd" and more[name] < 1000:
        # Small numbers are open descriptors, different ones in each process.
        more[name] += 1000
    return replace(request, more=more, prog_type=rng.choice((request.prog_type,) * 3 + tuple(range(34))))


DAMAGE = {
    "instructions": _damaged_insns,
    "BTF": _damaged_btf,
    "records": _damaged_records,
    "fd array": _fd_array,
    "core relocations": _core_relos,
    "fields": _fields,
}
"""Ways to damage a request, by name."""
