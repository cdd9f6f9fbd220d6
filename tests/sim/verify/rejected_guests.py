# SPDX-License-Identifier: GPL-2.0-only
"""Typical mistakes in C (guests/rejected) and what their explanations must say."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Guest:
    """One object: the kernel's words, the rule, the refused source line, and phrases that must occur.

    ``line`` is the beginning of the source line (trimmed); "" when the rejection is about none.
    """

    name: str
    message: str
    rule: str
    line: str
    phrases: tuple[str, ...]


GUESTS = (
    Guest(
        "null_check",
        "R0 invalid mem access 'map_value_or_null'",
        "maybe-null",
        "*count += 1;",
        (
            "r0 (address): a pointer to a value of map packets (hash), 8 bytes, or NULL",
            "r0: returned by bpf_map_lookup_elem",
            "nothing has compared r0 with NULL since line 16",
        ),
    ),
    Guest(
        "wrong_branch",
        "R1 invalid mem access 'scalar'",
        "not-a-pointer",
        "*count = 1;",
        ("r1 is NULL here", "set at line 18", "the access is on the branch for NULL"),
    ),
    Guest(
        "bounds_check",
        "R1 offset is outside of the packet",
        "packet-range",
        "if (ip->protocol == IPPROTO_UDP)",
        (
            "this access needs 24 bytes of the packet, 14 are proved",
            "if r3 > r2 goto pc+10 is not taken",
            "if (data + sizeof(*eth) > data_end)",
        ),
    ),
    Guest(
        "no_bounds_check",
        "R1 offset is outside of the packet",
        "packet-range",
        "return eth->h_proto",
        ("needs 13 bytes of the packet, 0 are proved", "No comparison with data_end was made on this path"),
    ),
    Guest(
        "unchecked_offset",
        "R2 offset is outside of the packet",
        "packet-range",
        "return udp->dest",
        (
            "nothing proves that the packet reaches as far as r2 leads",
            "Line 15 moves the pointer by r1 (a multiple of 4 from 0 to 60)",
            "none was made since",
        ),
    ),
    Guest(
        "off_by_one",
        "R0 max value is outside of the allowed memory range",
        "out-of-bounds",
        "table->counters[queue] += 1;",
        (
            "8 bytes at offsets 0 to 128 of the map value, which has 128 bytes: the last offset that "
            "fits is 120",
            "if w6 > 0x10 goto pc+6 is not taken, so it is 0 to 16",
            "with `>= SIZE` (not `> SIZE`)",
        ),
    ),
    Guest(
        "signed_index",
        "math between map_value pointer and register with unbounded min value is not allowed",
        "pointer-offset-unknown",
        "table->counters[slot] += 1;",
        ("limit it from above only", "as low as -2147483648", "Make the number unsigned"),
    ),
    Guest(
        "reread_length",
        "R4 invalid zero-sized read: u64=[0,4294967295]",
        "size-zero",
        "if (bpf_xdp_load_bytes(",
        (
            "The value that line 28 checks was loaded separately",
            "line 30 reads the same memory again",
            "r3 (argument 3): a pointer to a value of map requests (array), 68 bytes, moved by 4 bytes",
            "checks the other copy",
        ),
    ),
    Guest(
        "endless_loop",
        "infinite loop detected at insn 1",
        "endless-loop",
        "while (bpf_ktime_get_ns() < start)",
        ("One round is instructions 1 to 2; only r0 changes", "decides whether there is another round"),
    ),
    Guest(
        "leaked_record",
        "BPF_EXIT instruction in main prog would lead to reference leak",
        "reference-leak",
        "}",
        (
            "call bpf_ringbuf_reserve#131: taken here (reference",
            "r0 was the last copy of the pointer",
            "if (ctx->rx_queue_index > 3) 12: if w2 > 0x3 goto",
            "is taken: the last decision on this path",
        ),
    ),
    Guest(
        "moved_context",
        "dereference of modified ctx ptr R1 off=12 disallowed",
        "modified-pointer",
        "return *field == 1",
        ("r1 (ctx) was moved by 12 bytes", "r1 += 12 makes it the program's context, moved by 12 bytes"),
    ),
    Guest(
        "stale_packet",
        "R7 invalid mem access 'scalar'",
        "not-a-pointer",
        "eth->h_proto = ",
        (
            "r7 pointed into the packet, which may have been moved since",
            "At line 16, bpf_xdp_adjust_head may move the packet",
            "Read ctx->data and ctx->data_end again",
        ),
    ),
    Guest(
        "big_stack",
        "combined stack size of 2 calls is 640. Too large",
        "stack-size",
        "",
        ("need 640 bytes of stack", "big_stack() uses 320 bytes", "inner() uses 320 bytes"),
    ),
    Guest(
        "wrong_helper",
        "program of this type cannot use helper bpf_skb_load_bytes#26",
        "wrong-helper",
        "bpf_skb_load_bytes(",
        ("programs of type xdp have no helper bpf_skb_load_bytes", "is there for: socket_filter, sched_cls"),
    ),
    Guest(
        "gpl_helper",
        "cannot call GPL-restricted function from non-GPL compatible program",
        "gpl-only",
        "bpf_trace_printk(",
        ("bpf_trace_printk is for GPL-compatible programs only", 'SEC("license") = "GPL"'),
    ),
    Guest(
        "lost_register",
        "R1 !read_ok",
        "unwritten-register",
        "asm volatile(",
        ("r1 is read after a call has overwritten it", "the call of bpf_ktime_get_ns overwrites r0 to r5"),
    ),
    Guest(
        "null_value",
        "R3 type=scalar expected=fp, pkt, pkt_meta, map_key, map_value, mem, ringbuf_mem, buf, trusted_ptr_",
        "argument-type",
        "bpf_map_update_elem(",
        ("argument 3 of bpf_map_update_elem is NULL", "must be (or point to) the stack, the packet"),
    ),
)
