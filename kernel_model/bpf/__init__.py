# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's BPF objects: maps, programs, BTF, links; how programs are loaded, run and attached."""
