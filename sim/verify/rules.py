# SPDX-License-Identifier: GPL-2.0-only
"""The table of rejections: from the verifier's last words to a plain-word rule.

A row names the rule, the messages that it covers, which registers matter, what to look for on the path
(:class:`Focus`), why the verifier insists, and what usually helps. Rows are tried in order, so special ones
stand before general ones. ``{reg}`` and other groups of the pattern may be used in the texts.
"""

from __future__ import annotations

import re

from .btf_rules import BTF_RULES
from .rule import Focus, Needs, Rule
from .rule import rule as _rule

_R = r"R(?P<reg>\d+) "
_REBUILD = "This is not something that C code causes: look at the compiler, the assembler or the loader."

RULES: tuple[Rule, ...] = (
    # ---- NULL and pointers ----------------------------------------------------------------------
    _rule(
        "maybe-null",
        rf"{_R}(invalid mem access '.*or_null'|pointer arithmetic on .*or_null.* prohibited)",
        "r{reg} may be NULL",
        "What may be NULL can be used only where a comparison with NULL has ruled that out, on every path.",
        ("Compare the pointer with NULL and leave (return) before its first use.",),
        focus=Focus.NULL,
    ),
    _rule(
        "not-a-pointer",
        rf"{_R}invalid mem access 'scalar'",
        "r{reg} is used as a pointer, but for the verifier it is a number",
        "Memory is accessed through pointers only, and the verifier must have followed the pointer "
        "all the way.",
        (
            "Use the pointer as it came from the context, a map or a helper; arithmetic other than adding "
            "and subtracting numbers makes it a number.",
        ),
        focus=Focus.POINTER,
    ),
    _rule(
        "wrong-pointer",
        rf"{_R}invalid mem access '(?P<kind>.*)'",
        "r{reg} cannot be read or written through: it is {kind}",
        "This kind of pointer only stands for something; its memory is not the program's to touch.",
        ("Access the data that it stands for through the helper that belongs to it.",),
    ),
    _rule(
        "modified-pointer",
        r"(dereference of modified|negative offset) (?P<kind>\S+) ptr R(?P<reg>\d+) off=(?P<off>-?\d+)",
        "r{reg} ({kind}) was moved by {off} bytes and can no longer be used",
        "The kernel rewrites accesses through this kind of pointer, so each must be the unmodified pointer "
        "plus a constant in the instruction itself.",
        (
            "Use the original pointer and let the field's offset be part of the access: `ctx->field`.",
            "When the compiler insists on moving the pointer, keep it from it: read the field into a "
            "`volatile` variable, or earlier.",
        ),
    ),
    _rule(
        "variable-pointer",
        r"variable (?P<kind>\S+) access var_off=",
        "a {kind} pointer was moved by a number that is not constant",
        "The kernel rewrites accesses through this kind of pointer, so the offset must be known when "
        "loading.",
        ("Choose among the fields with if or switch instead of computing an offset.",),
        Needs.OPERANDS,
    ),
    _rule(
        "pointer-offset-unknown",
        r"math between (?P<kind>\S+) pointer and register with unbounded min value",
        "a number without a lower limit is added to a pointer ({kind})",
        "A pointer may be moved only by numbers with a known lower and upper limit; a signed number that was "
        "compared with its upper limit only may still be negative.",
        (
            "Make the number unsigned (`__u32`, `__u64`), or check `>= 0` as well as the upper limit.",
            "Or mask it: `index &= SIZE - 1` where the size is a power of two.",
        ),
        Needs.OPERANDS,
        Focus.NUMBER,
    ),
    _rule(
        "pointer-offset-far",
        r"math between \S+ pointer and .* is not allowed|value \S+ makes \S+ pointer be out of bounds"
        r"|\S+ pointer offset \S+ is not allowed",
        "a pointer is moved too far",
        "Offsets must stay below 2^29 bytes in both directions.",
        ("Limit the number before it is added to the pointer.",),
        Needs.OPERANDS,
        Focus.NUMBER,
    ),
    _rule(
        "pointer-arithmetic",
        rf"{_R}(32-bit pointer arithmetic|pointer arithmetic( on .*| with .*)?|bitwise operator .* on pointer"
        r"|tried to subtract pointer from scalar|subtraction from stack pointer|pointer \S+ pointer"
        r"|partial copy of pointer|sign-extension part of pointer)( prohibited)?",
        "this arithmetic is not allowed on pointers",
        "A pointer may be moved by adding or subtracting numbers in 64 bits; anything else would make an "
        "address that the verifier knows nothing about.",
        ("Compute the offset as a number first, limit it, then add it to the pointer.",),
        Needs.OPERANDS,
    ),
    _rule(
        "frame-pointer",
        r"frame pointer is read only",
        "r10 is written",
        "r10 always holds the frame pointer.",
        ("Copy r10 to another register and change the copy.",),
        Needs.NONE,
    ),
    _rule(
        "mixed-pointers",
        r"same insn cannot be used with different pointers",
        "one instruction accesses different kinds of memory on different paths",
        "The kernel rewrites this access, so it must know one kind of pointer for the instruction.",
        ("Make the accesses separate in each branch, and keep the compiler from merging them (a barrier).",),
        Needs.OPERANDS,
    ),
    # ---- registers ------------------------------------------------------------------------------
    _rule(
        "unwritten-register",
        rf"{_R}!read_ok",
        "r{reg} is read, but holds nothing",
        "A register must be written on every path before it is read; calls leave r1 to r5 empty.",
        (
            "Give the variable a value where it is declared, so that every path has one.",
            "Keep what is needed after a call in r6 to r9 or on the stack (compilers do).",
        ),
        focus=Focus.WRITTEN,
    ),
    # ---- reach of accesses ----------------------------------------------------------------------
    _rule(
        "packet-range",
        rf"{_R}offset is outside of the packet|invalid access to packet",
        "the packet may be too short for this access",
        "A byte of the packet may be touched only where a comparison with data_end has shown that it "
        "is there.",
        (
            "Before the access, compare the end of what you read with data_end: "
            "`if ((void *)(header + 1) > data_end) return ...;`",
            "Compare the same pointer that is used: adding a variable length makes a new pointer, for which "
            "earlier comparisons do not count.",
        ),
        focus=Focus.PACKET,
    ),
    _rule(
        "index-negative",
        rf"{_R}min value is negative, either use unsigned index",
        "the offset in r{reg} may be negative",
        "An access must stay inside its memory for every number that the offset may be.",
        (
            "Make the index unsigned (`__u32`, `__u64`), or check `>= 0` as well as the upper limit.",
            "Or mask it: `index &= SIZE - 1` where the size is a power of two.",
        ),
        focus=Focus.NUMBER,
    ),
    _rule(
        "index-unlimited",
        rf"{_R}unbounded memory access, make sure to bounds check",
        "nothing limits the offset in r{reg}",
        "An access must stay inside its memory for every number that the offset may be.",
        (
            "Compare the index with the size before the access: `if (index >= SIZE) return ...;`",
            "Or mask it: `index &= SIZE - 1` where the size is a power of two.",
        ),
        focus=Focus.NUMBER,
    ),
    _rule(
        "out-of-bounds",
        rf"{_R}(?P<end>max|min) value is outside of the allowed memory range",
        "the access may leave its memory",
        "An access must stay inside its memory for every number that the offset may be.",
        (
            "Tighten the check: with `>= SIZE` (not `> SIZE`) the last index that passes is SIZE - 1.",
            "Count the size of the access, too: offset plus size must fit.",
        ),
        focus=Focus.REGION,
    ),
    _rule(
        "out-of-bounds",
        r"invalid access to (map value|map key|memory)\b",
        "the access may leave its memory",
        "An access must stay inside its memory.",
        ("Make the memory bigger, or the access smaller.",),
        Needs.OPERANDS,
        Focus.REGION,
    ),
    _rule(
        "size-negative",
        rf"{_R}min value is negative, either use unsigned or",
        "the size in r{reg} may be negative",
        "A helper is given only as many bytes as the memory has, for every number that the size may be.",
        ("Make the size unsigned, or check `>= 0` as well as the upper limit, or mask it.",),
        focus=Focus.NUMBER,
    ),
    _rule(
        "size-zero",
        rf"{_R}invalid zero-sized read|invalid zero-sized read",
        "the size may be zero",
        "This helper takes no empty memory.",
        ("Check that the size is not 0 before the call, on the same variable that is passed.",),
        focus=Focus.NUMBER,
    ),
    _rule(
        "size-unlimited",
        rf"{_R}unbounded memory access, use 'var &= const'",
        "nothing limits the size in r{reg}",
        "A helper is given only as many bytes as the memory has, for every number that the size may be.",
        ("Compare the size with the memory's size right before the call, or mask it.",),
        focus=Focus.NUMBER,
    ),
    _rule(
        "misaligned",
        r"misaligned .*access off",
        "an access is not aligned to its size",
        "Stack accesses and atomic operations must be aligned, all others when the program asks for it.",
        ("Order or pad the structure so that the field lies at a multiple of its size.",),
        Needs.OPERANDS,
    ),
    _rule(
        "tracepoint-buffer",
        rf"{_R}invalid (tracepoint buffer access|variable buffer offset)",
        "an access to the buffer at an offset that is negative or not constant",
        "Accesses to this buffer need a constant offset of 0 or more.",
        ("Use constant offsets.",),
        Needs.OPERANDS,
    ),
    # ---- the context ----------------------------------------------------------------------------
    _rule(
        "context-field",
        r"invalid bpf_context access off=(?P<off>-?\d+) size=(?P<size>\d+)",
        "{size} bytes at offset {off} of the context cannot be accessed like this",
        "Each program type has its own context; each field has a size, and may be read only, write only, or "
        "not there at all for this type.",
        (
            "Check that the section name (program type) fits the context structure.",
            "Access the field as a whole, with its declared type, and do not write fields that are "
            "read only.",
        ),
        Needs.OPERANDS,
    ),
    # ---- the stack ------------------------------------------------------------------------------
    _rule(
        "stack-unwritten",
        r"invalid read from stack( R(?P<reg>\d+))?",
        "stack bytes are read that nothing was written to",
        "Without the privilege to see kernel memory (CAP_PERFMON), stack must be written before it is read.",
        ("Initialise the whole variable, padding included: `struct key key = {};` or `__builtin_memset`.",),
        Needs.OPERANDS,
        Focus.STACK,
    ),
    _rule(
        "stack-range",
        r"invalid.{0,11} ?stack R(?P<reg>\d+) off=|invalid (unbounded )?variable-offset"
        r"|allocated_stack too small",
        "the access leaves the stack",
        "A function has the 512 bytes below r10, and an access must stay inside for every possible offset.",
        ("Limit the index into the array on the stack.", "Put big buffers into a map of one entry."),
        Needs.OPERANDS,
        Focus.NUMBER,
    ),
    _rule(
        "stack-spill",
        r"invalid size of register (spill|fill)|attempt to corrupt spilled pointer"
        r"|cannot spill pointers to stack"
        r"|spilled ptr in range of var-offset|leaking pointer from stack"
        r"|variable offset stack pointer cannot be passed",
        "a pointer on the stack is read or written in part",
        "A pointer on the stack keeps its meaning only when all 8 bytes are stored and loaded at once.",
        ("Store and load pointers whole; keep pointers and bytes in different variables.",),
        Needs.OPERANDS,
        Focus.STACK,
    ),
    _rule(
        "stack-size",
        r"combined stack size of|stack size \d+\(extra \d+\) is too large|stack size of subprog"
        r"|the call stack of \d+ frames is too deep"
        r"|tail_calls are not allowed when call stack",
        "the functions need too much stack",
        "A chain of calls may use 512 bytes of stack in all (256 before a tail call) and be 8 calls deep.",
        (
            "Move big buffers into a per-CPU array map of one entry.",
            "Let functions that do not need each other's variables follow one another instead of nesting.",
        ),
        Needs.NONE,
        Focus.DEPTH,
    ),
    # ---- calls ----------------------------------------------------------------------------------
    _rule(
        "wrong-helper",
        r"program of this type cannot use helper (?P<helper>\S+)#\d+|invalid func (?P<unknown>\S+)#",
        "programs of type {type} have no helper {helper}",
        "Each program type has its own list of helpers; the kernel may also be older than the helper.",
        (
            "Look the helper up in bpf-helpers(7), and use one that works on this type's context.",
            "Or attach the code at a hook whose program type has the helper.",
        ),
        Needs.NONE,
        Focus.HELPER,
    ),
    _rule(
        "gpl-only",
        r"cannot call (GPL-restricted function|kernel function from non-GPL)",
        "{helper} is for GPL-compatible programs only",
        "The license section of the object names a license that is not GPL compatible.",
        ('If the license of your program allows it: `char LICENSE[] SEC("license") = "GPL";`',),
        Needs.NONE,
        Focus.NOTHING,
    ),
    _rule(
        "sleeping",
        r"helper call might sleep|programs can be sleepable|global functions that may sleep"
        r"|a non-sleepable BPF program context"
        r"|Sleepable programs can only use",
        "sleeping is not allowed here",
        "Only programs loaded as sleepable may sleep, and only with certain maps.",
        (
            "Load the program as sleepable (section names ending in `.s`), or use a helper that does "
            "not sleep.",
        ),
        Needs.NONE,
        Focus.NOTHING,
    ),
    _rule(
        "argument-type",
        rf"{_R}type=(?P<given>.*) expected=(?P<wanted>.*)",
        "r{reg} is {given}, and the helper takes another kind of argument",
        "Helpers say what each argument must be: a map, memory of some size, the context ...",
        (
            "Pass a pointer of one of the expected kinds; data usually has to be on the stack or in "
            "a map first.",
        ),
        focus=Focus.ARGUMENT,
    ),
    _rule(
        "map-and-helper",
        r"cannot pass map_type (?P<type>\d+) into func (?P<helper>\S+)#|expected prog array map for tail call"
        r"|mixing of tail_calls and bpf-to-bpf calls|callback function not allowed for map"
        r"|tail_call abusing map_ptr",
        "this helper does not work on this type of map",
        "Map types and helpers belong together: lookup and update for hashes and arrays, output helpers for "
        "buffers, tail calls for program arrays ...",
        ("Use the helper that belongs to the map's type, or another type of map.",),
        Needs.ARGUMENTS,
    ),
    _rule(
        "constant-argument",
        rf"{_R}(does not point to a readonly map|is not a constant address|is not a known constant)"
        r"|direct value access on string failed|string is not zero-terminated",
        "the argument must be known when the program is loaded",
        "The kernel reads this argument (a format string, a size) while loading.",
        ("Use a constant: a `static const char[]` in read-only data, or a literal number.",),
        Needs.ARGUMENTS,
    ),
    # ---- dynptrs, iterators, kernel functions, regions ------------------------------------------
    _rule(
        "dynptr",
        r"[Dd]ynptr|has to be at a constant offset|cannot pass in \S+ at an|is an unacquired reference",
        "a dynptr is not in the state that the call wants",
        "A dynptr lives in two whole stack slots that only dynptr functions may write; each of them wants it "
        "either made already, or not yet, and of a certain kind.",
        (
            "Make the dynptr on every path before it is used, keep its stack slots for it alone, and "
            "submit or discard a ring-buffer dynptr exactly once.",
        ),
        Needs.ARGUMENTS,
        Focus.ARGUMENT,
    ),
    _rule(
        "iterator",
        r"expected (an )?(un)?initialized (iter_|\d)|iterator on stack",
        "an iterator is not in the state that the call wants",
        "An open-coded iterator lives on the stack: new() first, then next() until NULL, then destroy() on "
        "every path; nothing else may write its slots.",
        ("Use bpf_for() or bpf_for_each(), which call destroy() on every way out.",),
        Needs.ARGUMENTS,
        Focus.ARGUMENT,
    ),
    _rule(
        "irq-flag",
        r"irq[_ ]flag|cannot restore irq state",
        "interrupts are saved and restored out of order",
        "bpf_local_irq_save() fills a stack slot that only the matching restore may read, innermost first.",
        ("Pair each save with one restore on the same slot, in reverse order.",),
        Needs.ARGUMENTS,
        Focus.ARGUMENT,
    ),
    _rule(
        "region",
        r"cannot be used inside (bpf_|.*-ed region)|rcu read (lock|unlock)|enable preemption"
        r"|is sleepable within|sleepable helper|requires RCU critical section",
        "a region is left open, closed twice, or sleeps",
        "RCU, preemption and interrupt regions must be closed on every path before the program ends, and "
        "nothing inside may sleep.",
        ("Close the region on this path, too, in the function that opened it.",),
        Needs.NONE,
        Focus.SLOT,
    ),
    _rule(
        "kfunc",
        r"[Kk]ernel function|kernel btf_id|kfunc|kernel func |JIT is required for calling"
        r"|must be a known constant|[Uu]nrecognized arg#|Possibly NULL pointer passed to trusted"
        r"|must point to |kernel module function|expected pointer to ctx, but|memory, len pair leads"
        r"|doesn't point to|size cannot be determined"
        r"|does not allow writes to packet",
        "a kernel function cannot be called like this",
        "Kernel functions (kfuncs) are checked against the kernel's BTF: the program type must have them, "
        "and each argument must be what its type and the suffix of its name say.",
        ("Compare the call with the function's declaration in vmlinux.h and its flags in the kernel.",),
        Needs.ARGUMENTS,
        Focus.ARGUMENT,
    ),
    _rule(
        "reference-leak",
        r"would lead to reference leak",
        "something that was acquired is not given back on this path",
        "What a helper hands out as a reference (a ring-buffer record, a socket) must be given back before "
        "every exit.",
        ("Submit, discard or release it on this path, too; a `goto out` with one place to clean up helps.",),
        Needs.NONE,
        Focus.REFERENCE,
    ),
    _rule(
        "release",
        rf"{_R}must (be referenced when passed to release|have zero offset when passed to release)"
        r"|reference has not been acquired before|more than one arg with ref_obj_id",
        "what is given back was not acquired, or is not the pointer that was handed out",
        "A release helper takes exactly the pointer that the acquiring helper returned, once.",
        ("Pass the original pointer, and do not use or release it again afterwards.",),
        Needs.ARGUMENTS,
    ),
    _rule(
        "global-function",
        r"Global function |reference type\(.*size cannot be determined|Caller passes invalid args into"
        r"|arg#\d+ expects pointer to ctx|is not a scalar$"
        r"|callback function not static|argument #\d+ of global function",
        "the function's signature does not fit its use",
        "A global function is verified on its own, for any arguments that its prototype allows: numbers, the "
        "context, or pointers to memory of known size, which may be NULL.",
        ("Make the function `static`, so that it is verified in each call's context.",),
        Needs.ARGUMENTS,
    ),
    # ---- read-only memory -----------------------------------------------------------------------
    _rule(
        "read-only",
        r"cannot write into|map forbidden, value_size|map forbidden$|write to change key"
        r"|helper access to the packet is not allowed",
        "this memory cannot be accessed in this way",
        "Packets of some program types, map keys, and maps created read only (or write only) for programs.",
        ("Copy what you want to change to the stack, or use the helper that changes it.",),
        Needs.OPERANDS,
    ),
    _rule(
        "pointer-leak",
        r"leaks addr (into|as)|pointer comparison prohibited",
        "an unprivileged program would give away a kernel address",
        "Without CAP_PERFMON, pointers may not reach places from which user space or timing could read them.",
        ("Store or compare numbers only; or load the program with CAP_BPF and CAP_PERFMON.",),
        Needs.OPERANDS,
    ),
    _rule(
        "unprivileged",
        r"prohibited for !root|CAP_BPF and CAP_PERFMON are required"
        r"|are allowed for CAP_BPF and CAP_SYS_ADMIN|uninit stack in range"
        r"|unknown scalar with mixed signed bounds|with unsupported alu operation"
        r"|from different maps, paths or scalars|beyond pointer bounds",
        "this is for privileged programs only",
        "Without CAP_BPF and CAP_PERFMON the verifier also guards against speculative execution and leaks.",
        ("Load the program with CAP_BPF and CAP_PERFMON, or use constant offsets.",),
        Needs.OPERANDS,
    ),
    # ---- results --------------------------------------------------------------------------------
    _rule(
        "return-value",
        r"should have been in \[|is not a known value|At subprogram exit the register|R0 not a scalar value"
        r"|cannot return stack pointer to the caller",
        "what is returned is not allowed here",
        "Some program types and callbacks may return only certain numbers, and never a pointer.",
        ("Return a constant on every path.",),
        Needs.RESULT,
        Focus.NUMBER,
    ),
    # ---- loops and size -------------------------------------------------------------------------
    _rule(
        "endless-loop",
        r"infinite loop detected at insn (?P<slot>\d+)",
        "the loop would never end, as far as the verifier can tell",
        "The verifier met the same state at the same instruction again: nothing that it follows changes from "
        "one round to the next, so it cannot see that the loop ends.",
        (
            "Count the rounds, and leave when a constant limit is reached: `for (int i = 0; i < 64; i++)`.",
            "Or use bpf_loop(), an open-coded iterator (`bpf_for`), or `may_goto` (`can_loop`).",
        ),
        Needs.NONE,
        Focus.LOOP,
    ),
    _rule(
        "back-edge",
        r"back-edge from insn (?P<slot>\d+) to (?P<to>\d+)",
        "a jump leads backwards",
        "Unprivileged programs may have no loops.",
        ("Unroll the loop (`#pragma unroll`), or load the program with CAP_BPF.",),
        Needs.NONE,
        Focus.SLOT,
    ),
    _rule(
        "too-complex",
        r"BPF program is too large\. Processed|The sequence of \d+ jumps is too complex",
        "the program has too many paths to be checked",
        "The verifier looks at one million instructions over all paths and then gives up; branches inside "
        "loops multiply.",
        (
            "See what costs most: `bpfsim verify --cost`.",
            "Let the body of the loop be a callback of bpf_loop(), or a global function, which is "
            "verified once.",
            "Lower the number of rounds; forget what need not be remembered, so that paths become alike.",
        ),
        Needs.NONE,
        Focus.COST,
    ),
    # ---- control flow ---------------------------------------------------------------------------
    _rule(
        "unreachable",
        r"unreachable insn (?P<slot>\d+)",
        "an instruction that no path reaches",
        "Dead code is refused before any path is followed.",
        ("Remove it. Compilers do unless they do not optimise: build with -O2.",),
        Needs.NONE,
        Focus.SLOT,
    ),
    _rule(
        "control-flow",
        r"jump out of range from insn (?P<slot>\d+)|jump into the middle of ldimm64 insn (?P<slot2>\d+)"
        r"|last insn is not an exit or jmp|call to invalid destination|too many subprograms|invalid insn idx",
        "the program's jumps or calls do not fit",
        "Every jump and call must lead to an instruction, and every function end with exit or a jump.",
        ("Make sure that every path of the function returns.", _REBUILD),
        Needs.NONE,
        Focus.SLOT,
    ),
    # ---- loading --------------------------------------------------------------------------------
    _rule(
        "program-btf",
        r"func_info|line_info|core_relo|nonzero tailing record|func info|LD_ABS is (not|only) allowed in"
        r"|tail_call is (not|only) allowed in"
        r"|func_info BTF section",
        "the program's BTF does not describe it",
        "Function and line information must follow the program's functions exactly.",
        ("Build with -g, and do not strip .BTF and .BTF.ext. " + _REBUILD,),
        Needs.NONE,
        Focus.NOTHING,
    ),
    _rule(
        "map-reference",
        r"is not pointing to valid|fd_array_cnt is too big|fd_idx without fd_array|direct value offset of"
        r"|no direct value access support|invalid access to map value pointer|The total number of maps"
        r"|bpf_struct_ops map cannot be used",
        "a reference to a map does not work",
        "Instructions name maps by the descriptors that the loader filled in.",
        ("Check that the loader created the map and patched the instruction.",),
        Needs.NONE,
        Focus.SLOT,
    ),
    _rule(
        "packet-load",
        r"BPF_LD_\[ABS\|IND\] instructions not allowed|at the time of BPF_LD_ABS\|IND R6",
        "the old packet loads (LD_ABS, LD_IND) do not work here",
        "They need an sk_buff as context, in r6.",
        ("Use direct packet access or bpf_skb_load_bytes().",),
        Needs.NONE,
        Focus.NOTHING,
    ),
    _rule(
        "atomic",
        r"BPF_ATOMIC .* is not allowed|invalid atomic operand size|BPF_ATOMIC uses invalid atomic opcode",
        "this atomic operation is not allowed",
        "Atomics work on 4 and 8 bytes (loads and stores on 1 and 2, too) of maps, stack and similar memory; "
        "not on packets or the context.",
        ("Use a 4- or 8-byte counter in a map.",),
        Needs.OPERANDS,
    ),
    _rule(
        "needs-jit",
        r"in non-JITed programs|JIT is required",
        "this needs the JIT compiler",
        "The interpreter cannot run programs with this combination of features.",
        ("Switch the JIT on: sysctl net.core.bpf_jit_enable=1.",),
        Needs.NONE,
        Focus.NOTHING,
    ),
    *BTF_RULES,
)

GENERAL: tuple[Rule, ...] = (
    _rule(
        "not-modelled",
        r"not modelled",
        "Linux can do this, the simulator cannot (yet)",
        "This says nothing about the program: another kernel may accept it.",
        (),
        Needs.NONE,
        Focus.NOTHING,
    ),
    _rule(
        "malformed",
        r"uses reserved fields|unknown opcode|invalid BPF_(ALU|JMP/JMP32) opcode|invalid BPF_LD"
        r"|invalid bpf_ld_imm64|unrecognized bpf_ld_imm64|R\d+ is invalid|invalid may_goto"
        r"|addr_space_cast|div by zero|invalid shift"
        r"|cannot be patched due to 16-bit range",
        "the instruction is not valid BPF",
        "Fields that an instruction does not use must be zero, and its operands must make sense.",
        (_REBUILD,),
        Needs.NONE,
        Focus.NOTHING,
    ),
    _rule(
        "verifier-bug",
        r"verifier bug|REG INVARIANTS VIOLATION",
        "the verifier is at odds with itself",
        "The kernel's authors hold this state impossible.",
        ("Report it with the log.",),
        Needs.NONE,
        Focus.NOTHING,
    ),
)
"""Rejections about which no more is to be said than their own words."""

FALLBACK = _rule(
    "other",
    r"",
    "the verifier refuses this",
    "The kernel's words are all there is to say.",
    (),
    Needs.OPERANDS,
)
"""For words that no rule knows."""


def find_rule(message: str) -> tuple[Rule, re.Match[str]]:
    """The first rule whose pattern occurs in the message, and where; FALLBACK when none does."""
    for rule in (*RULES, *GENERAL, FALLBACK):
        found = rule.pattern.search(message)
        if found:
            return rule, found
    raise AssertionError("FALLBACK matches everything")
