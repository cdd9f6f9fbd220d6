# SPDX-License-Identifier: GPL-2.0-only
"""This kernel's arch/x86: BPF programs to x86-64 machine code as Linux 6.18 lays it out."""

from .compiler import Compiler

__all__ = ["Compiler"]
