# SPDX-License-Identifier: GPL-2.0-only
"""Rejections of programs on kernel functions, and of accesses to the kernel's own structures."""

from __future__ import annotations

from .rule import Focus, Needs, Rule, rule

BTF_RULES: tuple[Rule, ...] = (
    rule(
        "attach-target",
        r"must provide btf_id|attach_btf_id \d+ |The function \S+ (has|return type|with variable|arg\d)"
        r"|helper call is not allowed in probe|LSM programs must have|is not sleepable|is not modifiable"
        r"|Attaching (tracing programs to function|fexit/fmod_ret to __noreturn)"
        r"|ret type \S+ not allowed for",
        "a program of this kind cannot be put on this function",
        "Tracing and LSM programs name the kernel function that they are for, and not every function can be "
        "traced, changed or slept in.",
        (
            "Check the name after the slash of the section against this kernel's functions.",
            "fmod_ret wants functions that allow errors to be injected, or security hooks; sleepable "
            "programs want functions that may sleep.",
        ),
        Needs.NONE,
        Focus.NOTHING,
    ),
    rule(
        "function-argument",
        r"offset \d+ is not multiple of 8|doesn't have \d+-th argument|Only pointer access is supported"
        r"|size \d+ must be 8|arg\d+ type .* is not a struct|arg\d+ has btf_id|arg\d+ '.*' has type",
        "this argument of the kernel function cannot be read so",
        "The context of such a program is an array of 8-byte arguments, whose types the kernel's BTF gives.",
        ("Read whole arguments, by BPF_PROG(name, arguments ...) of libbpf, with the function's own types.",),
        Needs.OPERANDS,
    ),
    rule(
        "kernel-structure",
        r"access beyond (struct|the end of member)|doesn't have field at offset|cannot access ptr member"
        r"|field \S+ doesn't have size|only read is supported|access is allowed only to CAP"
        r"|Cannot access kernel 'struct|invalid negative access|invalid variable offset"
        r"|Type '.*' is not a struct|\S+ access \S+ memory: off",
        "this is no access to a field of the kernel's structure",
        "Structures of the kernel may be read only, field by field, at offsets and sizes that BTF describes.",
        (
            "Compile with the structure from vmlinux.h and preserve_access_index: then offsets fit.",
            "Where a field may be missing, ask bpf_core_field_exists() first; use bpf_probe_read_kernel() "
            "for what cannot be walked.",
        ),
        Needs.OPERANDS,
    ),
    rule(
        "kernel-type",
        r"is of type \S+ but \S+ is expected|unable to resolve the size of type"
        r"|ldimm64 insn specifies invalid btf_id|pseudo btf_id \d+ in ldimm64|ldimm64 unable to resolve",
        "this is not the type of the kernel that is wanted",
        "Pointers to the kernel's structures are checked by their type in the kernel's BTF.",
        ("Pass the pointer that the kernel gave for this very type.",),
        Needs.ARGUMENTS,
        Focus.ARGUMENT,
    ),
)
