# SPDX-License-Identifier: GPL-2.0-only
# Helpers that call a program's callback: bpf_loop() and bpf_for_each_map_elem().

# edi how often, rsi callback, rdx its context, rcx flags (none): how often it was called, or an error.
# The callback gets (index, context) and ends the loop by anything but 0.
ENTRY(bpf_loop)
	test rcx, rcx
	jnz bpf_loop_inval
	cmp edi, CONST_BPF_MAX_LOOPS
	ja bpf_loop_toobig
	push rbx
	push r12
	push r13
	push r14
	mov r12d, edi
	mov r13, rsi
	mov r14, rdx
	xor ebx, ebx
bpf_loop_next:
	cmp ebx, r12d
	jae bpf_loop_done
	mov edi, ebx
	mov rsi, r14
	xor edx, edx
	xor ecx, ecx
	xor r8d, r8d
	mov rax, r13
	call __x86_indirect_thunk_rax
	add ebx, 1
	test rax, rax
	jz bpf_loop_next
bpf_loop_done:
	mov eax, ebx
	pop r14
	pop r13
	pop r12
	pop rbx
	RET
bpf_loop_inval:
	mov rax, CONST_MINUS_EINVAL
	RET
bpf_loop_toobig:
	mov rax, CONST_MINUS_E2BIG
	RET

# rdi map, rsi callback, rdx its context, rcx flags (none): how many elements it saw, or an error.
# The callback gets (map, key, value, context) and ends the walk by anything but 0.
ENTRY(bpf_for_each_map_elem)
	mov rax, [rdi + OFF_bpf_map_ops]
	mov rax, [rax + OFF_bpf_map_ops_map_for_each_callback]
	jmp __x86_indirect_thunk_rax

ENTRY(bpf_for_each_array_elem)
	test rcx, rcx
	jnz bpf_for_each_elem_inval
	push rbx
	push r12
	push r13
	push r14
	sub rsp, 8
	mov r12, rdi
	mov r13, rsi
	mov r14, rdx
	xor ebx, ebx
bpf_for_each_array_elem_next:
	cmp ebx, [r12 + OFF_bpf_map_max_entries]
	jae bpf_for_each_array_elem_done
	# The key is a copy on the stack: the callback may write to it.
	mov [rsp], ebx
	cmp dword ptr [r12 + OFF_bpf_map_map_type], CONST_BPF_MAP_TYPE_PERCPU_ARRAY
	je bpf_for_each_array_elem_percpu
	mov edx, [r12 + OFF_bpf_array_elem_size]
	imul rdx, rbx
	lea rdx, [r12 + rdx + OFF_bpf_array_value]
	jmp bpf_for_each_array_elem_call
bpf_for_each_array_elem_percpu:
	mov rdx, [r12 + rbx*8 + OFF_bpf_array_pptrs]
	mov rcx, SYM_this_cpu_off
	add rdx, gs:[rcx]
bpf_for_each_array_elem_call:
	mov rdi, r12
	mov rsi, rsp
	mov rcx, r14
	xor r8d, r8d
	mov rax, r13
	call __x86_indirect_thunk_rax
	add ebx, 1
	test rax, rax
	jz bpf_for_each_array_elem_next
bpf_for_each_array_elem_done:
	mov eax, ebx
	add rsp, 8
	pop r14
	pop r13
	pop r12
	pop rbx
	RET

# rbx elements seen, rbp bucket, r15 the element after this one.
ENTRY(bpf_for_each_hash_elem)
	test rcx, rcx
	jnz bpf_for_each_elem_inval
	push rbx
	push rbp
	push r12
	push r13
	push r14
	push r15
	mov r12, rdi
	mov r13, rsi
	mov r14, rdx
	xor ebx, ebx
	xor ebp, ebp
bpf_for_each_hash_elem_bucket:
	cmp ebp, [r12 + OFF_bpf_htab_n_buckets]
	jae bpf_for_each_hash_elem_done
	imul rax, rbp, SIZEOF_bucket
	add rax, [r12 + OFF_bpf_htab_buckets]
	mov r15, [rax + OFF_bucket_head_first]
	add ebp, 1
bpf_for_each_hash_elem_next:
	test r15b, 1
	jnz bpf_for_each_hash_elem_bucket
	lea rsi, [r15 + OFF_htab_elem_key]
	mov r15, [r15 + OFF_htab_elem_hash_node_next]
	mov edx, [r12 + OFF_bpf_map_key_size]
	add edx, 7
	and edx, -8
	add rdx, rsi
	mov eax, [r12 + OFF_bpf_map_map_type]
	cmp eax, CONST_BPF_MAP_TYPE_PERCPU_HASH
	je bpf_for_each_hash_elem_percpu
	cmp eax, CONST_BPF_MAP_TYPE_LRU_PERCPU_HASH
	jne bpf_for_each_hash_elem_call
bpf_for_each_hash_elem_percpu:
	mov rdx, [rdx]
	mov rcx, SYM_this_cpu_off
	add rdx, gs:[rcx]
bpf_for_each_hash_elem_call:
	mov rdi, r12
	mov rcx, r14
	xor r8d, r8d
	add ebx, 1
	mov rax, r13
	call __x86_indirect_thunk_rax
	test rax, rax
	jz bpf_for_each_hash_elem_next
bpf_for_each_hash_elem_done:
	movsxd rax, ebx
	pop r15
	pop r14
	pop r13
	pop r12
	pop rbp
	pop rbx
	RET

bpf_for_each_elem_inval:
	mov rax, CONST_MINUS_EINVAL
	RET
