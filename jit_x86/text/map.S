# SPDX-License-Identifier: GPL-2.0-only
# The map helpers: a jump to the operation of the map's type. Arguments stay where they are.
# rdi map, rsi key (or value, for push, pop and peek), rdx value, rcx flags.

ENTRY(bpf_map_lookup_elem)
	mov rax, [rdi + OFF_bpf_map_ops]
	mov rax, [rax + OFF_bpf_map_ops_map_lookup_elem]
	jmp __x86_indirect_thunk_rax

ENTRY(bpf_map_update_elem)
	mov rax, [rdi + OFF_bpf_map_ops]
	mov rax, [rax + OFF_bpf_map_ops_map_update_elem]
	jmp __x86_indirect_thunk_rax

ENTRY(bpf_map_delete_elem)
	mov rax, [rdi + OFF_bpf_map_ops]
	mov rax, [rax + OFF_bpf_map_ops_map_delete_elem]
	jmp __x86_indirect_thunk_rax

ENTRY(bpf_map_push_elem)
	mov rax, [rdi + OFF_bpf_map_ops]
	mov rax, [rax + OFF_bpf_map_ops_map_push_elem]
	jmp __x86_indirect_thunk_rax

ENTRY(bpf_map_pop_elem)
	mov rax, [rdi + OFF_bpf_map_ops]
	mov rax, [rax + OFF_bpf_map_ops_map_pop_elem]
	jmp __x86_indirect_thunk_rax

ENTRY(bpf_map_peek_elem)
	mov rax, [rdi + OFF_bpf_map_ops]
	mov rax, [rax + OFF_bpf_map_ops_map_peek_elem]
	jmp __x86_indirect_thunk_rax

ENTRY(bpf_map_lookup_percpu_elem)
	mov rax, [rdi + OFF_bpf_map_ops]
	mov rax, [rax + OFF_bpf_map_ops_map_lookup_percpu_elem]
	jmp __x86_indirect_thunk_rax
