# SPDX-License-Identifier: GPL-2.0-only
# Memory for elements (kernel_model/maps/memalloc.py has the other side). A free object is linked by the
# word in front of it.

# rdi the caches (a per-CPU pointer): an object, or 0 when there is no memory.
ENTRY(bpf_mem_cache_alloc)
	mov rcx, SYM_this_cpu_off
	add rdi, gs:[rcx]
bpf_mem_cache_alloc_again:
	mov rax, [rdi + OFF_bpf_mem_cache_free_llist_first]
	test rax, rax
	jz bpf_mem_cache_alloc_refill
	mov rdx, [rax]
	mov [rdi + OFF_bpf_mem_cache_free_llist_first], rdx
	sub dword ptr [rdi + OFF_bpf_mem_cache_free_cnt], 1
	add rax, 8
	RET
bpf_mem_cache_alloc_refill:
	push rdi
	call bpf_mem_refill
	pop rdi
	test rax, rax
	jz bpf_mem_cache_alloc_again
	xor eax, eax
	RET

# rdi the caches, rsi an object.
ENTRY(bpf_mem_cache_free)
	mov rcx, SYM_this_cpu_off
	add rdi, gs:[rcx]
	mov rax, [rdi + OFF_bpf_mem_cache_free_llist_first]
	sub rsi, 8
	mov [rsi], rax
	mov [rdi + OFF_bpf_mem_cache_free_llist_first], rsi
	add dword ptr [rdi + OFF_bpf_mem_cache_free_cnt], 1
	RET
