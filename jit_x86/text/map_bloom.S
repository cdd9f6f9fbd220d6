# SPDX-License-Identifier: GPL-2.0-only
# Bloom filters (kernel_model/maps/bloom_filter.py has the other side).

# The place of the value's hash number r12d: rcx is the word's address, eax the bit's number within it.
# rbx map, rbp value.
bloom_map_hash:
	mov rdi, rbp
	mov esi, [rbx + OFF_bpf_map_value_size]
	mov edx, [rbx + OFF_bpf_bloom_filter_hash_seed]
	add edx, r12d
	call jhash
	and eax, [rbx + OFF_bpf_bloom_filter_bitset_mask]
	mov ecx, eax
	shr ecx, 6
	lea rcx, [rbx + rcx*8 + OFF_bpf_bloom_filter_bitset]
	and eax, 63
	RET

# rdi map, rsi value: 0 when it may be in the filter, else -ENOENT.
ENTRY(bloom_map_peek_elem)
	push rbx
	push rbp
	push r12
	mov rbx, rdi
	mov rbp, rsi
	xor r12d, r12d
bloom_map_peek_elem_next:
	cmp r12d, [rbx + OFF_bpf_bloom_filter_nr_hash_funcs]
	jae bloom_map_done
	call bloom_map_hash
	mov rcx, [rcx]
	bt rcx, rax
	jnc bloom_map_peek_elem_absent
	add r12d, 1
	jmp bloom_map_peek_elem_next
bloom_map_peek_elem_absent:
	mov rax, CONST_MINUS_ENOENT
	jmp bloom_map_out

# rdi map, rsi value, rdx flags (none).
ENTRY(bloom_map_push_elem)
	test rdx, rdx
	jnz bloom_map_push_elem_inval
	push rbx
	push rbp
	push r12
	mov rbx, rdi
	mov rbp, rsi
	xor r12d, r12d
bloom_map_push_elem_next:
	cmp r12d, [rbx + OFF_bpf_bloom_filter_nr_hash_funcs]
	jae bloom_map_done
	call bloom_map_hash
	mov rdx, [rcx]
	bts rdx, rax
	mov [rcx], rdx
	add r12d, 1
	jmp bloom_map_push_elem_next
bloom_map_done:
	xor eax, eax
bloom_map_out:
	pop r12
	pop rbp
	pop rbx
	RET
bloom_map_push_elem_inval:
	mov rax, CONST_MINUS_EINVAL
	RET

ENTRY(bloom_map_pop_elem)
	mov rax, CONST_MINUS_EOPNOTSUPP
	RET

ENTRY(bloom_map_delete_elem)
	mov rax, CONST_MINUS_EOPNOTSUPP
	RET

ENTRY(bloom_map_lookup_elem)
	mov rax, CONST_MINUS_EINVAL
	RET

ENTRY(bloom_map_update_elem)
	mov rax, CONST_MINUS_EINVAL
	RET
