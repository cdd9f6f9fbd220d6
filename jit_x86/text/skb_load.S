# SPDX-License-Identifier: GPL-2.0-only
# Loads from packets: what LD_ABS and LD_IND become, and bpf_skb_load_bytes() (net/core/filter.c).
# Packets without fragments are read here; a set data_len goes to Python.

# rdi skb, rsi its data, edx the bytes of it, ecx a signed offset that is negative: rcx becomes the
# offset from the data (SKF_NET_OFF and SKF_LL_OFF count from the headers). Leaves for the caller's
# label with rcx below -2**31 when there is no such header.
skb_convert_offset:
	cmp ecx, CONST_SKF_NET_OFF
	jl skb_convert_offset_ll
	movzx eax, word ptr [rdi + OFF_sk_buff_network_header]
	lea rcx, [rcx + rax]
	sub rcx, CONST_SKF_NET_OFF
	jmp skb_convert_offset_head
skb_convert_offset_ll:
	cmp ecx, CONST_SKF_LL_OFF
	jl skb_convert_offset_none
	movzx eax, word ptr [rdi + OFF_sk_buff_mac_header]
	cmp eax, CONST_SKB_HEADER_UNSET
	je skb_convert_offset_none
	lea rcx, [rcx + rax]
	sub rcx, CONST_SKF_LL_OFF
skb_convert_offset_head:
	# Header offsets count from skb->head.
	add rcx, [rdi + OFF_sk_buff_head]
	sub rcx, [rdi + OFF_sk_buff_data]
	RET
skb_convert_offset_none:
	movabs rcx, -0x100000000
	RET

# bpf_skb_load_helper_8(): rdi skb, rsi data, edx bytes in the linear part, ecx offset.
ENTRY(bpf_skb_load_helper_8_no_cache)
	mov ecx, esi
	mov rsi, [rdi + OFF_sk_buff_data]
	mov edx, [rdi + OFF_sk_buff_len]
	sub edx, [rdi + OFF_sk_buff_data_len]
ENTRY_UNALIGNED(bpf_skb_load_helper_8)
	movsxd rcx, ecx
	movsxd rdx, edx
	test ecx, ecx
	js bpf_skb_load_helper_8_negative
bpf_skb_load_helper_8_linear:
	mov rax, rdx
	sub rax, rcx
	cmp rax, 1
	jl bpf_skb_load_helper_8_beyond
	movzx eax, byte ptr [rsi + rcx]
	RET
bpf_skb_load_helper_8_negative:
	call skb_convert_offset
	cmp rcx, -0x80000000
	jg bpf_skb_load_helper_8_linear
bpf_skb_load_helper_8_fault:
	mov rax, CONST_MINUS_EFAULT
	RET
bpf_skb_load_helper_8_beyond:
	cmp dword ptr [rdi + OFF_sk_buff_data_len], 0
	je bpf_skb_load_helper_8_fault
	mov edx, 1
	mov esi, ecx
	jmp skb_load_nonlinear

# bpf_skb_load_helper_16(): rdi skb, rsi data, edx bytes in the linear part, ecx offset.
ENTRY(bpf_skb_load_helper_16_no_cache)
	mov ecx, esi
	mov rsi, [rdi + OFF_sk_buff_data]
	mov edx, [rdi + OFF_sk_buff_len]
	sub edx, [rdi + OFF_sk_buff_data_len]
ENTRY_UNALIGNED(bpf_skb_load_helper_16)
	movsxd rcx, ecx
	movsxd rdx, edx
	test ecx, ecx
	js bpf_skb_load_helper_16_negative
bpf_skb_load_helper_16_linear:
	mov rax, rdx
	sub rax, rcx
	cmp rax, 2
	jl bpf_skb_load_helper_16_beyond
	movzx eax, word ptr [rsi + rcx]
	xchg al, ah
	RET
bpf_skb_load_helper_16_negative:
	call skb_convert_offset
	cmp rcx, -0x80000000
	jg bpf_skb_load_helper_16_linear
bpf_skb_load_helper_16_fault:
	mov rax, CONST_MINUS_EFAULT
	RET
bpf_skb_load_helper_16_beyond:
	cmp dword ptr [rdi + OFF_sk_buff_data_len], 0
	je bpf_skb_load_helper_16_fault
	mov edx, 2
	mov esi, ecx
	jmp skb_load_nonlinear

# bpf_skb_load_helper_32(): rdi skb, rsi data, edx bytes in the linear part, ecx offset.
ENTRY(bpf_skb_load_helper_32_no_cache)
	mov ecx, esi
	mov rsi, [rdi + OFF_sk_buff_data]
	mov edx, [rdi + OFF_sk_buff_len]
	sub edx, [rdi + OFF_sk_buff_data_len]
ENTRY_UNALIGNED(bpf_skb_load_helper_32)
	movsxd rcx, ecx
	movsxd rdx, edx
	test ecx, ecx
	js bpf_skb_load_helper_32_negative
bpf_skb_load_helper_32_linear:
	mov rax, rdx
	sub rax, rcx
	cmp rax, 4
	jl bpf_skb_load_helper_32_beyond
	mov eax, [rsi + rcx]
	bswap eax
	RET
bpf_skb_load_helper_32_negative:
	call skb_convert_offset
	cmp rcx, -0x80000000
	jg bpf_skb_load_helper_32_linear
bpf_skb_load_helper_32_fault:
	mov rax, CONST_MINUS_EFAULT
	RET
bpf_skb_load_helper_32_beyond:
	cmp dword ptr [rdi + OFF_sk_buff_data_len], 0
	je bpf_skb_load_helper_32_fault
	mov edx, 4
	mov esi, ecx
	jmp skb_load_nonlinear

# rdi skb, esi offset, rdx destination, ecx bytes: 0, or -EFAULT and zeroes.
ENTRY(bpf_skb_load_bytes)
	test esi, esi
	js bpf_skb_load_bytes_clear
	mov eax, [rdi + OFF_sk_buff_len]
	sub eax, [rdi + OFF_sk_buff_data_len]
	movsxd rax, eax
	sub rax, rsi
	movsxd r8, ecx
	cmp rax, r8
	jl bpf_skb_load_bytes_beyond
	add rsi, [rdi + OFF_sk_buff_data]
	mov rdi, rdx
	mov edx, ecx
	call memcpy
	xor eax, eax
	RET
bpf_skb_load_bytes_beyond:
	cmp dword ptr [rdi + OFF_sk_buff_data_len], 0
	jne skb_load_bytes_nonlinear
bpf_skb_load_bytes_clear:
	mov rdi, rdx
	xor esi, esi
	mov edx, ecx
	call memset
	mov rax, CONST_MINUS_EFAULT
	RET

# rdi skb, esi offset, rdx destination, ecx bytes, r8d which header the offset counts from.
ENTRY(bpf_skb_load_bytes_relative)
	cmp esi, 0xffff
	ja bpf_skb_load_bytes_clear
	cmp r8d, CONST_BPF_HDR_START_NET
	je bpf_skb_load_bytes_relative_net
	cmp r8d, CONST_BPF_HDR_START_MAC
	jne bpf_skb_load_bytes_clear
	movzx eax, word ptr [rdi + OFF_sk_buff_mac_header]
	cmp eax, CONST_SKB_HEADER_UNSET
	je bpf_skb_load_bytes_clear
	jmp bpf_skb_load_bytes_relative_start
bpf_skb_load_bytes_relative_net:
	movzx eax, word ptr [rdi + OFF_sk_buff_network_header]
bpf_skb_load_bytes_relative_start:
	mov r8, [rdi + OFF_sk_buff_head]
	add rax, r8
	mov r9d, [rdi + OFF_sk_buff_tail]
	add r8, r9
	# The linear part alone can be read this way; r8 is its end.
	mov esi, esi
	add rsi, rax
	mov ecx, ecx
	lea rax, [rsi + rcx]
	cmp rax, r8
	ja bpf_skb_load_bytes_clear
	mov rdi, rdx
	mov edx, ecx
	call memcpy
	xor eax, eax
	RET
