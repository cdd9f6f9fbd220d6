# SPDX-License-Identifier: GPL-2.0-only
# The monotonic clock: the machine's one clock word, which every look at it moves on a little.
ENTRY(bpf_ktime_get_ns)
	movabs rcx, SYM_sim_clock
	mov rax, [rcx]
	add rax, CONST_KTIME_COST_NS
	mov [rcx], rax
	RET
