# SPDX-License-Identifier: GPL-2.0-only
"""Where everything lies: the simulated machine's physical and virtual memory map.

The virtual map is Linux's for x86-64 with 4-level page tables (Documentation/arch/x86/x86_64/mm.rst),
without KASLR. Code lies in the first physical megabytes, so that "may not be written by data accesses"
is one comparison.
"""

from __future__ import annotations

from typing import Final

PAGE_SIZE: Final = 4096
LARGE_PAGE: Final = 2 << 20

# Physical memory.
TEXT_PHYS: Final = 0
TEXT_SIZE: Final = 2 << 20
JIT_PHYS: Final = TEXT_PHYS + TEXT_SIZE
JIT_SIZE: Final = 16 << 20
CODE_PHYS_END: Final = JIT_PHYS + JIT_SIZE
DATA_PHYS: Final = CODE_PHYS_END
DATA_SIZE: Final = 2 << 20
FREE_PHYS: Final = DATA_PHYS + DATA_SIZE
DEFAULT_RAM: Final = 512 << 20

# Virtual memory.
USER_END: Final = 0x0000_8000_0000_0000
DIRECT_MAP: Final = 0xFFFF_8880_0000_0000
VMALLOC_START: Final = 0xFFFF_C900_0000_0000
KERNEL_TEXT: Final = 0xFFFF_FFFF_8100_0000
KERNEL_DATA: Final = 0xFFFF_FFFF_8200_0000
JIT_IMAGES: Final = 0xFFFF_FFFF_C000_0000

# The static per-CPU section is linked inside kernel data; CPU n's copy is at + __per_cpu_offset[n].
PERCPU_START: Final = KERNEL_DATA + (1 << 20)
PERCPU_STATIC_SIZE: Final = 64 << 10
PERCPU_UNIT: Final = 8 << 20

# Segment selectors (arch/x86/include/asm/segment.h).
KERNEL_CS: Final = 0x10
KERNEL_DS: Final = 0x18
USER_DS: Final = 0x2B
USER_CS: Final = 0x33
GDT: Final = (
    0,
    0x00CF_9B00_0000_FFFF,
    0x00AF_9B00_0000_FFFF,
    0x00CF_9300_0000_FFFF,
    0x00CF_FB00_0000_FFFF,
    0x00CF_F300_0000_FFFF,
    0x00AF_FB00_0000_FFFF,
)
