# SPDX-License-Identifier: GPL-2.0-only
# Arrays of values, per-CPU arrays and arrays of objects (kernel_model/maps/array.py has the other side).

# rdi map, rsi key: the value's address, or 0.
ENTRY(array_map_lookup_elem)
	mov eax, [rsi]
	cmp eax, [rdi + OFF_bpf_map_max_entries]
	jae array_map_lookup_elem_none
	and eax, [rdi + OFF_bpf_array_index_mask]
	mov ecx, [rdi + OFF_bpf_array_elem_size]
	imul rax, rcx
	lea rax, [rdi + rax + OFF_bpf_array_value]
	RET
array_map_lookup_elem_none:
	xor eax, eax
	RET

ENTRY(percpu_array_map_lookup_elem)
	mov eax, [rsi]
	cmp eax, [rdi + OFF_bpf_map_max_entries]
	jae percpu_array_map_lookup_elem_none
	and eax, [rdi + OFF_bpf_array_index_mask]
	mov rax, [rdi + rax*8 + OFF_bpf_array_pptrs]
	mov rcx, SYM_this_cpu_off
	add rax, gs:[rcx]
	RET
percpu_array_map_lookup_elem_none:
	xor eax, eax
	RET

# An array of maps: the inner map's address, or 0.
ENTRY(array_of_map_lookup_elem)
	mov eax, [rsi]
	cmp eax, [rdi + OFF_bpf_map_max_entries]
	jae array_of_map_lookup_elem_none
	and eax, [rdi + OFF_bpf_array_index_mask]
	mov rax, [rdi + rax*8 + OFF_bpf_array_ptrs]
	RET
array_of_map_lookup_elem_none:
	xor eax, eax
	RET

# rdi map, rsi key, rdx value, rcx flags: 0 or an error. A per-CPU array's value changes on this CPU.
ENTRY(array_map_update_elem)
	mov rax, rcx
	and rax, -1 - CONST_BPF_F_LOCK
	cmp rax, CONST_BPF_EXIST
	ja array_map_update_elem_inval
	mov eax, [rsi]
	cmp eax, [rdi + OFF_bpf_map_max_entries]
	jae array_map_update_elem_toobig
	test cl, CONST_BPF_NOEXIST
	jnz array_map_update_elem_exists
	test cl, CONST_BPF_F_LOCK
	jnz array_map_update_elem_inval
	and eax, [rdi + OFF_bpf_array_index_mask]
	mov rsi, rdx
	mov edx, [rdi + OFF_bpf_map_value_size]
	cmp dword ptr [rdi + OFF_bpf_map_map_type], CONST_BPF_MAP_TYPE_PERCPU_ARRAY
	je array_map_update_elem_percpu
	mov ecx, [rdi + OFF_bpf_array_elem_size]
	imul rax, rcx
	lea rdi, [rdi + rax + OFF_bpf_array_value]
	call memcpy
	xor eax, eax
	RET
array_map_update_elem_percpu:
	mov rdi, [rdi + rax*8 + OFF_bpf_array_pptrs]
	mov rcx, SYM_this_cpu_off
	add rdi, gs:[rcx]
	call memcpy
	xor eax, eax
	RET
array_map_update_elem_inval:
	mov rax, CONST_MINUS_EINVAL
	RET
array_map_update_elem_toobig:
	mov rax, CONST_MINUS_E2BIG
	RET
array_map_update_elem_exists:
	mov rax, CONST_MINUS_EEXIST
	RET

ENTRY(array_map_delete_elem)
	mov rax, CONST_MINUS_EINVAL
	RET

# Programs cannot look into arrays of programs or perf events; the error is a pointer's (ERR_PTR).
ENTRY(fd_array_map_lookup_elem)
	mov rax, CONST_MINUS_EOPNOTSUPP
	RET
