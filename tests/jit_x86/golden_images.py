# SPDX-License-Identifier: GPL-2.0-only
"""Images of a Linux 6.18 kernel kept as data, so that their bytes are compared where no host can be asked.

``golden/forms.txt`` has one instruction a line: its slots and its machine code, in hex.
``golden/programs.json`` has whole requests with the kernel's images. Run this file as root on a 6.18
kernel, with the repository and its tests/ on PYTHONPATH, to record both anew. It records only what our
compiler agrees with, so a recording that differs from the kept one is a change of the kernel.
"""

from __future__ import annotations

import json
import os
import platform
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import host_bpf
import pytest
from host_reference import FAKE_POINTER, calibration, compile_as_host, map_value
from random_programs import MAP_SIZE, random_program

from kernel_model.isa.insn import Insn, decode, encode
from kernel_model.isa.native import CpuFeatures, Mitigations, NativeRequest, PokeSite, Subprog
from kernel_model.isa.opcodes import BPF_JMP, BPF_JMP32, CALL, EXIT, LD_IMM64, bpf_class

DIRECTORY = Path(__file__).parent / "golden"
FORMS = DIRECTORY / "forms.txt"
PROGRAMS = DIRECTORY / "programs.json"
MAX_BYTES = 10_000
"""Of one program; larger ones repeat themselves."""
RELEASE = platform.release().split("-")[0]


def load_forms() -> list[tuple[tuple[Insn, ...], bytes]]:
    """The slots and the machine code of each recorded instruction."""
    lines = [line.split() for line in FORMS.read_text().splitlines() if not line.startswith("#")]
    return [(tuple(decode(bytes.fromhex(a))), bytes.fromhex(b.strip("-"))) for a, b in lines]


def dump_request(request: NativeRequest) -> dict[str, Any]:
    """A request as plain data: what differs from the recording's common part."""
    return {
        "insns": encode(request.insns).hex(),
        "subprogs": [
            {name: value for name, value in asdict(subprog).items() if value not in ("", None, False)}
            for subprog in request.subprogs
        ],
        "pokes": [asdict(poke) for poke in request.pokes],
        "arena": [request.arena_kern_vm_start, request.arena_user_vm_start],
    }


def load_programs() -> Iterator[tuple[str, NativeRequest, tuple[int, ...], list[bytes], list[Any]]]:
    """Name, request, addresses, images and masks of each recorded program."""
    data = json.loads(PROGRAMS.read_text())
    features, mitigations = CpuFeatures(**data["features"]), Mitigations(**data["mitigations"])
    for item in data["programs"]:
        request = NativeRequest(
            tuple(decode(bytes.fromhex(item["insns"]))),
            tuple(Subprog(**{"start": 0, **subprog}) for subprog in item["subprogs"]),
            data["symbols"],
            data["offsets"],
            features,
            mitigations,
            tuple(PokeSite(**poke) for poke in item["pokes"]),
            arena_kern_vm_start=item["arena"][0],
            arena_user_vm_start=item["arena"][1],
        )
        images = [bytes.fromhex(image) for image in item["images"]]
        yield item["name"], request, tuple(item["addrs"]), images, item["masks"]


def _recordable(insns: Sequence[Insn]) -> bool:
    """Whether the code depends on nothing around it: no address in it, no distance but 0."""
    first = insns[0]
    pointer = any(insn.imm == _signed(FAKE_POINTER >> 32) for insn in insns)
    jumps = bpf_class(first.code) in (BPF_JMP, BPF_JMP32)
    return first.code not in (0, CALL, EXIT) and not pointer and not (jumps and first.off)


def _signed(half: int) -> int:
    return half - (1 << 32) if half >> 31 else half


def _record_forms() -> str:
    from test_host_forms import LEAVE, UNKNOWN, all_bodies

    fd = host_bpf.map_create(host_bpf.BPF_MAP_TYPE_ARRAY, 4, 16384, 1)
    lines: dict[str, str] = {}
    for number, body in enumerate(all_bodies(fd)):
        result = compile_as_host([*UNKNOWN, *body, *LEAVE])
        assert not result.differences, result.differences[0]
        offsets, code = result.ours.functions[0].insn_offs, result.images[0]
        # A sample, with the first few of each opcode: the host tests go through all of them.
        seen: Counter[int] = Counter()
        for slot in range(len(result.insns) - 1):
            seen[result.insns[slot].code] += 1
            if seen[result.insns[slot].code] > 3 and (slot + number) % 13:
                continue
            width = 2 if result.insns[slot].code == LD_IMM64 else 1
            insns = result.insns[slot : slot + width]
            if _recordable(insns):
                key = encode(insns).hex()
                lines[key] = f"{key} {code[offsets[slot] : offsets[slot + width]].hex() or '-'}"
    os.close(fd)
    head = f"# BPF slots and the machine code that Linux {RELEASE} made of them.\n"
    return head + "\n".join(sorted(lines.values())) + "\n"


class _Recorder:
    """A pytest plug-in: keeps what the host tests found to agree."""

    def __init__(self) -> None:
        self.programs: list[dict[str, Any]] = []
        self.name = ""

    def pytest_collection_finish(self, session: Any) -> None:
        import test_host_programs

        test_host_programs.agree = self.keep

    def pytest_runtest_call(self, item: Any) -> None:
        self.name = item.name

    def keep(self, result: Any) -> None:
        assert not result.differences
        if sum(len(image) for image in result.images) > MAX_BYTES or any(
            p["name"] == self.name for p in self.programs
        ):
            return
        images = [image.hex() for image in result.images]
        item = {"name": self.name, **dump_request(result.request), "addrs": result.addrs, "images": images}
        self.programs.append({**item, "masks": result.masks})


def _record_programs() -> str:
    import test_host_programs

    recorder = _Recorder()
    code = pytest.main([test_host_programs.__file__, "-q", "-p", "no:cacheprovider"], plugins=[recorder])
    assert code == 0
    fd = host_bpf.map_create(host_bpf.BPF_MAP_TYPE_ARRAY, 4, MAP_SIZE, 1)
    for seed in range(12):
        recorder.name = f"random-{seed}"
        recorder.keep(compile_as_host(random_program(seed, map_value(9, fd, MAP_SIZE // 2))))
    os.close(fd)
    host = calibration()
    data = {
        "kernel": RELEASE,
        "symbols": host.symbols,
        "offsets": host.offsets,
        "features": asdict(host.features),
        "mitigations": asdict(host.mitigations),
    }
    rows: Sequence[str] = [json.dumps(item, separators=(",", ":")) for item in recorder.programs]
    return json.dumps(data, indent=1)[:-2] + ',\n "programs": [\n' + ",\n".join(rows) + "\n ]\n}\n"


if __name__ == "__main__":
    DIRECTORY.mkdir(exist_ok=True)
    FORMS.write_text(_record_forms())
    PROGRAMS.write_text(_record_programs())
