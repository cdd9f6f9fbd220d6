# SPDX-License-Identifier: GPL-2.0-only
"""CO-RE: making a program fit the types of the kernel that it is loaded into, by libbpf's rules.

``spec`` reads what a relocation asks for, ``compat`` says which types of the kernel may stand for a type of
the object, ``candidates`` finds them, ``resolve`` decides the value, ``patch`` puts it into the instruction.
"""

from .resolve import CoreError, Resolution, Resolver

__all__ = ["CoreError", "Resolution", "Resolver"]
