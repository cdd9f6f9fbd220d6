# SPDX-License-Identifier: GPL-2.0-only
# Queues and stacks (kernel_model/maps/queue_stack.py has the other side).
# An empty map gives -ENOENT and a value of zeroes.

# rdi map, rsi buffer: the oldest value, which goes.
ENTRY(queue_map_pop_elem)
	mov eax, [rdi + OFF_bpf_queue_stack_tail]
	cmp eax, [rdi + OFF_bpf_queue_stack_head]
	je queue_stack_empty
	lea ecx, [rax + 1]
	xor edx, edx
	cmp ecx, [rdi + OFF_bpf_queue_stack_size]
	cmovae ecx, edx
	mov [rdi + OFF_bpf_queue_stack_tail], ecx
	jmp queue_stack_copy

ENTRY(queue_map_peek_elem)
	mov eax, [rdi + OFF_bpf_queue_stack_tail]
	cmp eax, [rdi + OFF_bpf_queue_stack_head]
	je queue_stack_empty
queue_stack_copy:
	# eax is the slot: copy it to rsi.
	mov edx, [rdi + OFF_bpf_map_value_size]
	imul rax, rdx
	lea rcx, [rdi + rax + OFF_bpf_queue_stack_elements]
	mov rdi, rsi
	mov rsi, rcx
	call memcpy
	xor eax, eax
	RET
queue_stack_empty:
	mov edx, [rdi + OFF_bpf_map_value_size]
	mov rdi, rsi
	xor esi, esi
	call memset
	mov rax, CONST_MINUS_ENOENT
	RET

# The newest value.
ENTRY(stack_map_pop_elem)
	mov eax, [rdi + OFF_bpf_queue_stack_head]
	cmp eax, [rdi + OFF_bpf_queue_stack_tail]
	je queue_stack_empty
	mov ecx, [rdi + OFF_bpf_queue_stack_size]
	test eax, eax
	cmovz eax, ecx
	sub eax, 1
	mov [rdi + OFF_bpf_queue_stack_head], eax
	jmp queue_stack_copy

ENTRY(stack_map_peek_elem)
	mov eax, [rdi + OFF_bpf_queue_stack_head]
	cmp eax, [rdi + OFF_bpf_queue_stack_tail]
	je queue_stack_empty
	mov ecx, [rdi + OFF_bpf_queue_stack_size]
	test eax, eax
	cmovz eax, ecx
	sub eax, 1
	jmp queue_stack_copy

# rdi map, rsi value, rdx flags: BPF_EXIST drops the oldest value of a full map.
ENTRY(queue_stack_map_push_elem)
	test dl, CONST_BPF_NOEXIST
	jnz queue_stack_inval
	cmp rdx, CONST_BPF_EXIST
	ja queue_stack_inval
	xor r8d, r8d
	mov r9d, [rdi + OFF_bpf_queue_stack_size]
	mov eax, [rdi + OFF_bpf_queue_stack_head]
	lea ecx, [rax + 1]
	cmp ecx, r9d
	cmovae ecx, r8d
	mov r10d, [rdi + OFF_bpf_queue_stack_tail]
	cmp ecx, r10d
	jne queue_stack_map_push_elem_room
	test edx, edx
	jz queue_stack_map_push_elem_full
	add r10d, 1
	cmp r10d, r9d
	cmovae r10d, r8d
	mov [rdi + OFF_bpf_queue_stack_tail], r10d
queue_stack_map_push_elem_room:
	mov [rdi + OFF_bpf_queue_stack_head], ecx
	mov edx, [rdi + OFF_bpf_map_value_size]
	imul rax, rdx
	lea rdi, [rdi + rax + OFF_bpf_queue_stack_elements]
	call memcpy
	xor eax, eax
	RET
queue_stack_map_push_elem_full:
	mov rax, CONST_MINUS_E2BIG
	RET
queue_stack_inval:
	mov rax, CONST_MINUS_EINVAL
	RET

ENTRY(queue_stack_map_lookup_elem)
	xor eax, eax
	RET

ENTRY(queue_stack_map_update_elem)
	mov rax, CONST_MINUS_EINVAL
	RET

ENTRY(queue_stack_map_delete_elem)
	mov rax, CONST_MINUS_EINVAL
	RET
