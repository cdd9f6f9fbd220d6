# SPDX-License-Identifier: GPL-2.0-only
"""Memory management: page frames, the kernel's allocators, and the address spaces of processes."""
