# SPDX-License-Identifier: GPL-2.0-only
# The number of the running CPU; the second function is for programs from classic BPF and the base group.
ENTRY(bpf_get_smp_processor_id)
	mov rax, SYM_cpu_number
	mov eax, gs:[rax]
	RET

ENTRY(bpf_get_raw_cpu_id)
	mov rax, SYM_cpu_number
	mov eax, gs:[rax]
	RET

# Branches that fill the history of branches with something harmless; clobbers rax and rcx, as callers know.
ENTRY(clear_bhb_loop)
	mov ecx, 5
__bhb_outer:
	mov eax, 5
__bhb_inner:
	jmp __bhb_next
	nop
__bhb_next:
	sub eax, 1
	jnz __bhb_inner
	sub ecx, 1
	jnz __bhb_outer
	RET

# The NUMA node of the running CPU: this machine has one.
ENTRY(bpf_get_numa_node_id)
	xor eax, eax
	RET
