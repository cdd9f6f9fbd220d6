# SPDX-License-Identifier: GPL-2.0-only
# Bounds of may_goto loops: a program looks at the clock every CONST_MAX_TIMED_LOOPS rounds, and leaves the
# loop after a quarter of a second (since 6.15).

# Called by programs with r10 = the offset of a struct bpf_timed_may_goto from the frame pointer; the count for
# the next rounds comes back in r10. R0-R5 of the program survive.
ENTRY(arch_bpf_timed_may_goto)
	push rax
	push rdi
	push rsi
	push rdx
	push rcx
	push r8
	lea rdi, [rbp + r10]
	call bpf_check_timed_may_goto
	mov r10, rax
	pop r8
	pop rcx
	pop rdx
	pop rsi
	pop rdi
	pop rax
	RET

# u64 bpf_check_timed_may_goto(struct bpf_timed_may_goto *p): rounds until the next look, 0 when time is up.
# Rounds take simulated time, or a loop that only waits would never end.
ENTRY(bpf_check_timed_may_goto)
	movabs rcx, SYM_sim_clock
	mov rdx, [rcx]
	add rdx, CONST_TIMED_LOOPS_COST_NS
	mov [rcx], rdx
	mov eax, CONST_MAX_TIMED_LOOPS
	cmp qword ptr [rdi + OFF_bpf_timed_may_goto_timestamp], 0
	jne bpf_check_timed_may_goto_running
	mov [rdi + OFF_bpf_timed_may_goto_timestamp], rdx
	RET
bpf_check_timed_may_goto_running:
	sub rdx, [rdi + OFF_bpf_timed_may_goto_timestamp]
	cmp rdx, CONST_TIMED_LOOPS_LIMIT_NS
	jb bpf_check_timed_may_goto_on
	xor eax, eax
bpf_check_timed_may_goto_on:
	RET
