# SPDX-License-Identifier: GPL-2.0-only
"""The simulated kernel's configuration, as /proc/config.gz shows it, and its release.

Only options that this model decides, or that BPF programs commonly ask for, are listed.
"""

from __future__ import annotations

import gzip
from functools import cache
from typing import Final

from .helpers.constants import HZ

RELEASE: Final = "6.18.0"
"""What uname(2) gives; the kernel that is modelled."""

CONFIG: Final = {
    "CONFIG_64BIT": "y",
    "CONFIG_X86_64": "y",
    "CONFIG_HZ": str(HZ),
    f"CONFIG_HZ_{HZ}": "y",
    "CONFIG_NR_CPUS": "16",
    "CONFIG_SMP": "y",
    "CONFIG_NET": "y",
    "CONFIG_INET": "y",
    "CONFIG_IPV6": "y",
    "CONFIG_CGROUPS": "y",
    "CONFIG_BPF": "y",
    "CONFIG_BPF_SYSCALL": "y",
    "CONFIG_BPF_JIT": "y",
    "CONFIG_BPF_JIT_DEFAULT_ON": "y",
    "CONFIG_BPF_UNPRIV_DEFAULT_OFF": "y",
    "CONFIG_HAVE_EBPF_JIT": "y",
    "CONFIG_DEBUG_INFO_BTF": "y",
    "CONFIG_IKCONFIG": "y",
    "CONFIG_IKCONFIG_PROC": "y",
    "CONFIG_DEFAULT_HOSTNAME": '"(none)"',
    "CONFIG_ARCH_HAS_SYSCALL_WRAPPER": "y",
}


@cache
def config_gz() -> bytes:
    """The file /proc/config.gz."""
    text = "".join(f"{name}={value}\n" for name, value in CONFIG.items())
    # No time of day, so that the bytes never change.
    return gzip.compress(text.encode(), mtime=0)
