# SPDX-License-Identifier: GPL-2.0-only
# u64 bpf_test_run_loop(bpf_func, void *ctx, insnsi, u64 repeat): run a program `repeat` times; last R0.
ENTRY(bpf_test_run_loop)
	push rbp
	mov rbp, rsp
	push rbx
	push r12
	push r13
	push r14
	mov rbx, rdi
	mov r12, rsi
	mov r13, rdx
	mov r14, rcx
bpf_test_run_loop_again:
	mov rdi, r12
	mov rsi, r13
	mov rax, rbx
	call __x86_indirect_thunk_rax
	dec r14
	jne bpf_test_run_loop_again
	pop r14
	pop r13
	pop r12
	pop rbx
	pop rbp
	RET
