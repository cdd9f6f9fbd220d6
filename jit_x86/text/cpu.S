# SPDX-License-Identifier: GPL-2.0-only
# The number of the running CPU. Programs from classic BPF call it by the second name.
ENTRY(bpf_get_smp_processor_id)
ENTRY_UNALIGNED(bpf_get_raw_cpu_id)
	mov rax, SYM_cpu_number
	mov eax, gs:[rax]
	RET
