# SPDX-License-Identifier: GPL-2.0-only
"""What a process can learn of its kernel: types, configuration, symbols, release; read when asked for."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Mapping
from functools import cached_property

from kernel_model.btf.parse import Btf
from kernel_model.btf.vmlinux import parse_kernel_btf

from .bpf import Bpf
from .externs import parse_config

VMLINUX_BTF = "/sys/kernel/btf/vmlinux"
CONFIG_GZ = "/proc/config.gz"
KALLSYMS = "/proc/kallsyms"
_RELEASE = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?")


class FactsError(ValueError):
    """A file of the kernel's that cannot be read as what it should be; the cause in words."""


class KernelFacts:
    """The kernel of ``bpf``'s process. ``btf`` and ``config`` replace what it says of itself.

    Reading raises SyscallError, BtfError or FactsError.
    """

    def __init__(self, bpf: Bpf, btf: Btf | None = None, config: Mapping[str, str] | None = None) -> None:
        self._bpf = bpf
        self._btf = btf
        self._config = config

    @cached_property
    def btf(self) -> Btf:
        """The kernel's types."""
        return self._btf if self._btf is not None else parse_kernel_btf(self._bpf.read_file(VMLINUX_BTF))

    @cached_property
    def config(self) -> Mapping[str, str]:
        """CONFIG_ values as in .config, and libbpf's LINUX_ ones, which it finds out by itself."""
        config = self._config if self._config is not None else parse_config(self._config_text())
        # Every kernel from 5.15 on has cookies, and all on x86-64 since 4.17 have wrappers.
        return {
            "LINUX_KERNEL_VERSION": str(self.version),
            "LINUX_HAS_BPF_COOKIE": str(int(self.version >= 5 << 16 | 15 << 8)),
            "LINUX_HAS_SYSCALL_WRAPPER": str(int(self.version >= 4 << 16 | 17 << 8)),
            **config,
        }

    def _config_text(self) -> str:
        data = self._bpf.read_file(CONFIG_GZ)
        try:
            return gzip.decompress(data).decode("latin-1")
        except (OSError, EOFError, zlib.error) as error:
            raise FactsError(f"{CONFIG_GZ}: {error}") from None

    @cached_property
    def version(self) -> int:
        """KERNEL_VERSION() of the release."""
        found = _RELEASE.match(self._bpf.uname().release)
        if found is None:
            raise FactsError(f"the kernel's release {self._bpf.uname().release!r} is no version")
        major, minor, patch = (int(part or 0) for part in found.groups())
        return major << 16 | minor << 8 | min(patch, 255)

    @cached_property
    def symbols(self) -> Mapping[str, int]:
        """Addresses by name; the first of several wins, as in the kernel's own search."""
        out: dict[str, int] = {}
        for line in self._bpf.read_file(KALLSYMS).decode("latin-1").splitlines():
            fields = line.split()
            if len(fields) >= 3:
                out.setdefault(fields[2], int(fields[0], 16))
        return out
