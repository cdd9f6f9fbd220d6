# SPDX-License-Identifier: GPL-2.0-only
# Ring buffers (kernel_model/maps/ringbuf.py has the other side and describes the pages).
#
# A record is a header (u32 length with the busy and discard bits on top, u32 distance to the struct
# bpf_ringbuf in pages) and the data, together a multiple of 8 bytes.

# rdi ring buffer, rsi bytes: the record's data, or 0.
__bpf_ringbuf_reserve:
	cmp rsi, CONST_RINGBUF_MAX_RECORD_SZ
	ja __bpf_ringbuf_reserve_none
	lea ecx, [rsi + 15]
	and ecx, -8
	mov rdx, [rdi + OFF_bpf_ringbuf_mask]
	lea rax, [rdx + 1]
	cmp rcx, rax
	ja __bpf_ringbuf_reserve_none
	mov r8, [rdi + OFF_bpf_ringbuf_consumer_pos]
	mov r9, [rdi + OFF_bpf_ringbuf_pending_pos]
	mov r10, [rdi + OFF_bpf_ringbuf_producer_pos]
__bpf_ringbuf_reserve_pending:
	# Past the records that were committed since.
	cmp r10, r9
	je __bpf_ringbuf_reserve_check
	mov rax, r9
	and rax, rdx
	mov eax, [rdi + rax + OFF_bpf_ringbuf_data]
	test eax, eax
	js __bpf_ringbuf_reserve_check
	and eax, 0x3fffffff
	add eax, 15
	and eax, -8
	add r9, rax
	jmp __bpf_ringbuf_reserve_pending
__bpf_ringbuf_reserve_check:
	mov [rdi + OFF_bpf_ringbuf_pending_pos], r9
	add rcx, r10
	mov rax, rcx
	sub rax, r8
	cmp rax, rdx
	ja __bpf_ringbuf_reserve_none
	mov rax, rcx
	sub rax, r9
	cmp rax, rdx
	ja __bpf_ringbuf_reserve_none
	and rdx, r10
	add rdx, OFF_bpf_ringbuf_data
	lea rax, [rdi + rdx + 8]
	shr rdx, 12
	bts esi, 31
	mov [rax - 8], esi
	mov [rax - 4], edx
	mov [rdi + OFF_bpf_ringbuf_producer_pos], rcx
	RET
__bpf_ringbuf_reserve_none:
	xor eax, eax
	RET

# rdi map, rsi bytes, rdx flags (none): the record's data, or 0.
ENTRY(bpf_ringbuf_reserve)
	test rdx, rdx
	jnz __bpf_ringbuf_reserve_none
	mov rdi, [rdi + OFF_bpf_ringbuf_map_rb]
	jmp __bpf_ringbuf_reserve

# rdi the record's data, rsi flags.
ENTRY(bpf_ringbuf_discard)
	mov edx, 0x40000000
	jmp bpf_ringbuf_commit

ENTRY(bpf_ringbuf_submit)
	xor edx, edx
bpf_ringbuf_commit:
	sub rdi, 8
	mov ecx, [rdi + 4]
	shl rcx, 12
	mov rax, rdi
	and rax, -4096
	sub rax, rcx
	# rax is the ring buffer again.
	mov ecx, [rdi]
	btr ecx, 31
	or ecx, edx
	mov [rdi], ecx
	test sil, CONST_BPF_RB_FORCE_WAKEUP
	jnz bpf_ringbuf_commit_wake
	test sil, CONST_BPF_RB_NO_WAKEUP
	jnz bpf_ringbuf_commit_done
	# Only a consumer that has read everything before this record is woken.
	lea rcx, [rax + OFF_bpf_ringbuf_data]
	sub rdi, rcx
	mov rcx, [rax + OFF_bpf_ringbuf_consumer_pos]
	and rcx, [rax + OFF_bpf_ringbuf_mask]
	cmp rcx, rdi
	jne bpf_ringbuf_commit_done
bpf_ringbuf_commit_wake:
	add qword ptr [rax + OFF_bpf_ringbuf_wakeups], 1
bpf_ringbuf_commit_done:
	xor eax, eax
	RET

# rdi map, rsi data, rdx bytes, rcx flags: 0 or an error.
ENTRY(bpf_ringbuf_output)
	mov rax, rcx
	and rax, -1 - CONST_BPF_RB_NO_WAKEUP - CONST_BPF_RB_FORCE_WAKEUP
	jnz bpf_ringbuf_output_inval
	push rbx
	push rsi
	push rdx
	push rcx
	mov rdi, [rdi + OFF_bpf_ringbuf_map_rb]
	mov rsi, rdx
	call __bpf_ringbuf_reserve
	mov rbx, rax
	pop rcx
	pop rdx
	pop rsi
	test rax, rax
	jz bpf_ringbuf_output_full
	push rcx
	mov rdi, rax
	call memcpy
	pop rsi
	mov rdi, rbx
	pop rbx
	jmp bpf_ringbuf_submit
bpf_ringbuf_output_full:
	pop rbx
	mov rax, CONST_MINUS_EAGAIN
	RET
bpf_ringbuf_output_inval:
	mov rax, CONST_MINUS_EINVAL
	RET

# rdi map, rsi what to tell: a number of bytes, 0 for an unknown question.
ENTRY(bpf_ringbuf_query)
	mov rdi, [rdi + OFF_bpf_ringbuf_map_rb]
	cmp rsi, CONST_BPF_RB_PROD_POS
	ja bpf_ringbuf_query_unknown
	mov rax, [rdi + OFF_bpf_ringbuf_producer_pos]
	je bpf_ringbuf_query_done
	cmp esi, CONST_BPF_RB_RING_SIZE
	je bpf_ringbuf_query_size
	mov rcx, [rdi + OFF_bpf_ringbuf_consumer_pos]
	ja bpf_ringbuf_query_consumer
	sub rax, rcx
	RET
bpf_ringbuf_query_size:
	mov rax, [rdi + OFF_bpf_ringbuf_mask]
	add rax, 1
	RET
bpf_ringbuf_query_consumer:
	mov rax, rcx
	RET
bpf_ringbuf_query_unknown:
	xor eax, eax
bpf_ringbuf_query_done:
	RET

ENTRY(ringbuf_map_lookup_elem)
	mov rax, CONST_MINUS_ENOTSUPP
	RET

ENTRY(ringbuf_map_update_elem)
	mov rax, CONST_MINUS_ENOTSUPP
	RET

ENTRY(ringbuf_map_delete_elem)
	mov rax, CONST_MINUS_ENOTSUPP
	RET

# rdi map, rsi bytes, rdx flags (none), rcx struct bpf_dynptr_kern: 0 or an error and an invalid dynptr.
ENTRY(bpf_ringbuf_reserve_dynptr)
	push rcx
	mov rax, CONST_MINUS_EINVAL
	test rdx, rdx
	jnz bpf_ringbuf_reserve_dynptr_fail
	mov esi, esi
	mov rax, CONST_MINUS_E2BIG
	cmp esi, CONST_DYNPTR_MAX_SIZE
	ja bpf_ringbuf_reserve_dynptr_fail
	push rsi
	mov rdi, [rdi + OFF_bpf_ringbuf_map_rb]
	call __bpf_ringbuf_reserve
	pop rsi
	test rax, rax
	jz bpf_ringbuf_reserve_dynptr_full
	pop rcx
	mov [rcx + OFF_bpf_dynptr_kern_data], rax
	or esi, CONST_DYNPTR_RINGBUF
	mov [rcx + OFF_bpf_dynptr_kern_size], esi
	xor eax, eax
	mov [rcx + OFF_bpf_dynptr_kern_offset], eax
	RET
bpf_ringbuf_reserve_dynptr_full:
	mov rax, CONST_MINUS_EINVAL
bpf_ringbuf_reserve_dynptr_fail:
	pop rcx
	xor edx, edx
	mov [rcx + OFF_bpf_dynptr_kern_data], rdx
	mov [rcx + OFF_bpf_dynptr_kern_size], edx
	mov [rcx + OFF_bpf_dynptr_kern_offset], edx
	RET

# rdi struct bpf_dynptr_kern, rsi flags.
ENTRY(bpf_ringbuf_discard_dynptr)
	mov edx, 0x40000000
	jmp bpf_ringbuf_commit_dynptr

ENTRY(bpf_ringbuf_submit_dynptr)
	xor edx, edx
bpf_ringbuf_commit_dynptr:
	mov r8, rdi
	mov rdi, [r8 + OFF_bpf_dynptr_kern_data]
	xor eax, eax
	test rdi, rdi
	jz bpf_ringbuf_commit_dynptr_done
	mov [r8 + OFF_bpf_dynptr_kern_data], rax
	mov [r8 + OFF_bpf_dynptr_kern_size], eax
	mov [r8 + OFF_bpf_dynptr_kern_offset], eax
	jmp bpf_ringbuf_commit
bpf_ringbuf_commit_dynptr_done:
	RET
