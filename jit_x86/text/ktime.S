# SPDX-License-Identifier: GPL-2.0-only
# Clocks: all are the machine's one clock word, which every look at it moves on a little.
# The machine never sleeps, so time since boot is the monotonic clock; a tick is CONST_TICK_NSEC.

ENTRY(bpf_ktime_get_ns)
	movabs rcx, SYM_sim_clock
	mov rax, [rcx]
	add rax, CONST_KTIME_COST_NS
	mov [rcx], rax
	RET

ENTRY(bpf_ktime_get_boot_ns)
	movabs rcx, SYM_sim_clock
	mov rax, [rcx]
	add rax, CONST_KTIME_COST_NS
	mov [rcx], rax
	RET

# The time of the last tick.
ENTRY(bpf_ktime_get_coarse_ns)
	movabs rcx, SYM_sim_clock
	mov rax, [rcx]
	add rax, CONST_KTIME_COST_NS
	mov [rcx], rax
	mov r8d, CONST_TICK_NSEC
	xor edx, edx
	div r8
	imul rax, r8
	RET

# Ticks, counted from five minutes before the 32-bit counter wraps (INITIAL_JIFFIES).
ENTRY(bpf_jiffies64)
	movabs rcx, SYM_sim_clock
	mov rax, [rcx]
	add rax, CONST_KTIME_COST_NS
	mov [rcx], rax
	mov r8d, CONST_TICK_NSEC
	xor edx, edx
	div r8
	mov ecx, CONST_INITIAL_JIFFIES
	add rax, rcx
	RET
