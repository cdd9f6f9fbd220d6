# SPDX-License-Identifier: GPL-2.0-only
# The running task. Without one the CPU is idle, whose task has pid 0 in Linux.

ENTRY(bpf_get_current_task)
	mov rax, SYM_current_task
	mov rax, gs:[rax]
	RET

# The thread group's id in the upper half, the thread's in the lower.
ENTRY(bpf_get_current_pid_tgid)
	mov rax, SYM_current_task
	mov rcx, gs:[rax]
	xor eax, eax
	test rcx, rcx
	jz bpf_get_current_pid_tgid_idle
	mov eax, [rcx + OFF_task_struct_tgid]
	shl rax, 32
	mov ecx, [rcx + OFF_task_struct_pid]
	or rax, rcx
bpf_get_current_pid_tgid_idle:
	RET
