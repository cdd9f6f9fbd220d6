# SPDX-License-Identifier: GPL-2.0-only
"""The contents of maps, read by system calls as any process would."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kernel_model.btf.parse import Btf
from kernel_model.uapi.enums import bpf_map_type as T

from ..userspace.bpf import Bpf, SyscallError
from ..userspace.loader import LoadedMap
from .values import Value, decode, text

MAX_ENTRIES = 4096
"""Entries that are read of one map; a dump that stops there says so."""
PERCPU = frozenset(
    {
        T.BPF_MAP_TYPE_PERCPU_ARRAY,
        T.BPF_MAP_TYPE_PERCPU_HASH,
        T.BPF_MAP_TYPE_LRU_PERCPU_HASH,
        T.BPF_MAP_TYPE_PERCPU_CGROUP_STORAGE,
    }
)


@dataclass(frozen=True)
class Entry:
    """A key and its values: one, or one a CPU; as bytes and decoded."""

    key: bytes
    values: tuple[bytes, ...]
    decoded_key: Value
    decoded_values: tuple[Value, ...]

    @property
    def is_zero(self) -> bool:
        """Whether nobody has written here (in arrays, every index exists)."""
        return not any(any(value) for value in self.values)


@dataclass(frozen=True)
class MapDump:
    """A map's contents. ``problem`` says why it cannot be read; ``cut``: only MAX_ENTRIES were."""

    name: str
    type: str
    key_size: int
    value_size: int
    max_entries: int
    per_cpu: bool
    entries: tuple[Entry, ...] = ()
    cut: bool = False
    problem: str = ""

    def to_json(self) -> dict[str, Any]:
        """For ``--json``: keys and values decoded, and as hex digits."""
        return {
            "name": self.name,
            "type": self.type,
            "key_size": self.key_size,
            "value_size": self.value_size,
            "max_entries": self.max_entries,
            "problem": self.problem,
            "cut": self.cut,
            "entries": [
                {
                    "key": entry.decoded_key,
                    "key_hex": entry.key.hex(),
                    **(
                        {"values": list(entry.decoded_values), "values_hex": [v.hex() for v in entry.values]}
                        if self.per_cpu
                        else {"value": entry.decoded_values[0], "value_hex": entry.values[0].hex()}
                    ),
                }
                for entry in self.entries
            ],
        }

    def rows(self) -> list[tuple[str, str]]:
        """Key and value as text, all-zero entries of arrays left out."""
        shown = [entry for entry in self.entries if "ARRAY" not in self.type or not entry.is_zero]
        return [
            (text(entry.decoded_key), " | ".join(text(value) for value in entry.decoded_values))
            for entry in shown
        ]


def dump(bpf: Bpf, loaded: LoadedMap, btf: Btf | None, cpus: int) -> MapDump:
    """Read a map by BPF_MAP_GET_NEXT_KEY and BPF_MAP_LOOKUP_ELEM, in the map's own order."""
    spec = loaded.spec
    per_cpu = spec.type in PERCPU
    stride = -(-spec.value_size // 8) * 8 if per_cpu else spec.value_size
    count = cpus if per_cpu else 1
    entries: list[Entry] = []
    cut, problem = False, ""
    try:
        for key in bpf.map_keys(loaded.fd, spec.key_size):
            if len(entries) == MAX_ENTRIES:
                cut = True
                break
            data = bpf.map_lookup(loaded.fd, key, stride * count)
            if data is None:
                continue
            values = tuple(data[cpu * stride : cpu * stride + spec.value_size] for cpu in range(count))
            entries.append(
                Entry(
                    key,
                    values,
                    decode(btf, spec.key_type, key),
                    tuple(decode(btf, spec.value_type, value) for value in values),
                )
            )
    except SyscallError as error:
        problem = str(error)
    return MapDump(
        spec.name,
        spec.type_name,
        spec.key_size,
        spec.value_size,
        spec.max_entries,
        per_cpu,
        tuple(entries),
        cut,
        problem,
    )


def dump_all(bpf: Bpf, maps: Mapping[str, LoadedMap], btf: Btf | None, cpus: int) -> tuple[MapDump, ...]:
    """Every map, in the object's order."""
    return tuple(dump(bpf, loaded, btf, cpus) for loaded in maps.values())
