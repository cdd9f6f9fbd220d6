# SPDX-License-Identifier: GPL-2.0-only
"""``bpfsim load``: what an object makes of itself in the kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .errors import Status
from .options import btf_option, common, parse_prog_type, prog_type_option
from .output import print_json, print_line, print_table

if TYPE_CHECKING:
    from sim.userspace.loader import LoadedObject


def _programs(loaded: LoadedObject) -> list[dict[str, Any]]:
    from sim.job.job import describe_program

    out = []
    for name, each in loaded.progs.items():
        found = describe_program(loaded.bpf, name, each.fd)
        out.append(
            {
                "name": name,
                "section": each.spec.section,
                "id": found["id"],
                "type": found["type"],
                "tag": found["tag"],
                "insns": len(each.spec.insns),
                "xlated_bytes": found["xlated_bytes"],
                "jited_bytes": found["jited_bytes"],
                "functions": found["functions"],
                "verified_insns": found["verified_insns"],
                "maps": sorted({ref.map for ref in each.spec.map_refs}),
            }
        )
    return out


def _maps(loaded: LoadedObject) -> list[dict[str, Any]]:
    out = []
    for name, each in loaded.maps.items():
        info, _ = loaded.bpf.obj_info(each.fd, "bpf_map_info")
        out.append(
            {
                "name": name,
                "id": info["id"],
                "type": each.spec.type_name.lower(),
                "key_size": info["key_size"],
                "value_size": info["value_size"],
                "max_entries": info["max_entries"],
                "map_flags": info["map_flags"],
            }
        )
    return out


@click.command
@click.argument("object_path", metavar="OBJECT")
@prog_type_option
@btf_option
@common
def load(
    object_path: str, prog_type: str | None, btf: str | None, seed: int, as_json: bool, verbose: int
) -> Status:
    """Load OBJECT into a fresh kernel and list its programs and maps.

    Everything is done by bpf(2): BTF, maps, global data, programs, program arrays.
    """
    kind = parse_prog_type(prog_type)
    from sim import Machine
    from sim.job.job import load_object
    from sim.userspace.object import read_object

    spec = read_object(object_path)
    with Machine.boot(seed=seed, btf=btf) as machine:
        loaded = load_object(machine.process(), spec, prog_type=kind, log_level=1 if verbose else 0)
        programs, maps = _programs(loaded), _maps(loaded)
        logs = {name: each.log for name, each in loaded.progs.items()}
    if as_json:
        print_json("load", object=object_path, license=spec.license, programs=programs, maps=maps)
        return Status.OK
    print_line(f"{object_path}: license {spec.license or 'none'}, {'with' if spec.btf else 'without'} BTF")
    columns = ("program", "section", "id", "type", "tag", "insns", "xlated", "jited", "processed", "maps")
    keys = ("name", "section", "id", "type", "tag", "insns", "xlated_bytes", "jited_bytes", "verified_insns")
    rows = [(*(str(each[key]) for key in keys), " ".join(each["maps"])) for each in programs]
    print_table("programs", columns, rows, "llrllrrrr")
    if maps:
        titles = ("map", "id", "type", "key", "value", "entries", "flags")
        fields = ("name", "id", "type", "key_size", "value_size", "max_entries")
        rows = [(*(str(each[key]) for key in fields), f"{each['map_flags']:#x}") for each in maps]
        print_table("maps", titles, rows, "lrlrrrr")
    if verbose:
        for name, log in logs.items():
            print_line(f"log of {name}:")
            for line in log.splitlines():
                print_line(f"  {line}")
    return Status.OK
