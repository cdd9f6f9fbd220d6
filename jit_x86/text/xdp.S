# SPDX-License-Identifier: GPL-2.0-only
# bpf_xdp_adjust_head(), _tail() and _meta() (net/core/filter.c): rdi is the xdp_buff, esi the signed offset.
# Buffers with fragments are not built by this kernel; a set XDP_FLAGS_HAS_FRAGS goes to Python.

ENTRY(bpf_xdp_adjust_head)
	movsxd rsi, esi
	mov r9, [rdi + OFF_xdp_buff_data]
	mov r10, [rdi + OFF_xdp_buff_data_meta]
	# r11 is the length of the metadata; data_meta beyond data means that there can be none.
	mov r11, r9
	sub r11, r10
	jae bpf_xdp_adjust_head_meta
	xor r11d, r11d
bpf_xdp_adjust_head_meta:
	mov rax, [rdi + OFF_xdp_buff_data_hard_start]
	lea rax, [rax + r11 + SIZEOF_xdp_frame]
	lea r8, [r9 + rsi]
	cmp r8, rax
	jb bpf_xdp_adjust_head_inval
	mov rax, [rdi + OFF_xdp_buff_data_end]
	sub rax, CONST_ETH_HLEN
	cmp r8, rax
	ja bpf_xdp_adjust_head_inval
	lea rax, [r10 + rsi]
	mov [rdi + OFF_xdp_buff_data], r8
	mov [rdi + OFF_xdp_buff_data_meta], rax
	test r11, r11
	jz bpf_xdp_adjust_head_done
	mov rdi, rax
	mov rsi, r10
	mov rdx, r11
	call memmove
bpf_xdp_adjust_head_done:
	xor eax, eax
	RET
bpf_xdp_adjust_head_inval:
	mov rax, CONST_MINUS_EINVAL
	RET

ENTRY(bpf_xdp_adjust_tail)
	test dword ptr [rdi + OFF_xdp_buff_flags], CONST_XDP_FLAGS_HAS_FRAGS
	jnz bpf_xdp_frags_adjust_tail
	movsxd rdx, esi
	mov r9, [rdi + OFF_xdp_buff_data_end]
	lea r8, [r9 + rdx]
	mov eax, [rdi + OFF_xdp_buff_frame_sz]
	add rax, [rdi + OFF_xdp_buff_data_hard_start]
	sub rax, SIZEOF_skb_shared_info
	cmp r8, rax
	ja bpf_xdp_adjust_tail_inval
	mov rax, [rdi + OFF_xdp_buff_data]
	add rax, CONST_ETH_HLEN
	cmp r8, rax
	jb bpf_xdp_adjust_tail_inval
	mov [rdi + OFF_xdp_buff_data_end], r8
	test edx, edx
	jle bpf_xdp_adjust_tail_done
	mov rdi, r9
	xor esi, esi
	call memset
bpf_xdp_adjust_tail_done:
	xor eax, eax
	RET
bpf_xdp_adjust_tail_inval:
	mov rax, CONST_MINUS_EINVAL
	RET

ENTRY(bpf_xdp_adjust_meta)
	movsxd rsi, esi
	mov r9, [rdi + OFF_xdp_buff_data]
	mov r10, [rdi + OFF_xdp_buff_data_meta]
	cmp r10, r9
	ja bpf_xdp_adjust_meta_notsupp
	add r10, rsi
	mov rax, [rdi + OFF_xdp_buff_data_hard_start]
	add rax, SIZEOF_xdp_frame
	cmp r10, rax
	jb bpf_xdp_adjust_meta_inval
	cmp r10, r9
	ja bpf_xdp_adjust_meta_inval
	sub r9, r10
	test r9b, 3
	jnz bpf_xdp_adjust_meta_acces
	cmp r9, CONST_XDP_META_MAX
	ja bpf_xdp_adjust_meta_acces
	mov [rdi + OFF_xdp_buff_data_meta], r10
	xor eax, eax
	RET
bpf_xdp_adjust_meta_notsupp:
	mov rax, CONST_MINUS_ENOTSUPP
	RET
bpf_xdp_adjust_meta_inval:
	mov rax, CONST_MINUS_EINVAL
	RET
bpf_xdp_adjust_meta_acces:
	mov rax, CONST_MINUS_EACCES
	RET

# How many bytes the packet has.
ENTRY(bpf_xdp_get_buff_len)
	test dword ptr [rdi + OFF_xdp_buff_flags], CONST_XDP_FLAGS_HAS_FRAGS
	jnz bpf_xdp_frags_get_buff_len
	mov eax, [rdi + OFF_xdp_buff_data_end]
	sub eax, [rdi + OFF_xdp_buff_data]
	RET

# rdi xdp_buff, esi offset, rdx buffer, ecx bytes: from the packet to the buffer.
ENTRY(bpf_xdp_load_bytes)
	call xdp_pointer
	jne xdp_pointer_error
	mov rdi, rdx
	mov rsi, rax
	mov edx, ecx
	call memcpy
	xor eax, eax
	RET

# The other way.
ENTRY(bpf_xdp_store_bytes)
	call xdp_pointer
	jne xdp_pointer_error
	mov rdi, rax
	mov rsi, rdx
	mov edx, ecx
	call memcpy
	xor eax, eax
	RET
xdp_pointer_error:
	RET

# rax is the address of the packet's bytes at offset esi and the zero flag is set, or rax is the error.
xdp_pointer:
	test dword ptr [rdi + OFF_xdp_buff_flags], CONST_XDP_FLAGS_HAS_FRAGS
	jnz xdp_pointer_frags
	cmp esi, 0xffff
	ja xdp_pointer_fault
	cmp ecx, 0xffff
	ja xdp_pointer_fault
	lea eax, [rsi + rcx]
	mov r8, [rdi + OFF_xdp_buff_data]
	mov r9, [rdi + OFF_xdp_buff_data_end]
	sub r9, r8
	cmp rax, r9
	ja xdp_pointer_inval
	mov esi, esi
	lea rax, [r8 + rsi]
	cmp eax, eax
	RET
xdp_pointer_fault:
	mov rax, CONST_MINUS_EFAULT
	test rax, rax
	RET
xdp_pointer_inval:
	mov rax, CONST_MINUS_EINVAL
	test rax, rax
	RET
xdp_pointer_frags:
	call bpf_xdp_frags_pointer
	test rsp, rsp
	RET
