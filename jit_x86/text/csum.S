# SPDX-License-Identifier: GPL-2.0-only
# The Internet checksum and bpf_csum_diff().

# csum_partial(): rdi buffer, esi bytes, edx sum so far: the 32-bit one's complement sum. Leaves r8-r11.
ENTRY(csum_partial)
	mov eax, edx
	mov ecx, esi
	shr ecx, 3
	jz csum_partial_dword
csum_partial_qwords:
	# Halves are added to a 64-bit sum, which 2**32 of them cannot overflow.
	mov edx, [rdi]
	add rax, rdx
	mov edx, [rdi + 4]
	add rax, rdx
	add rdi, 8
	sub ecx, 1
	jnz csum_partial_qwords
csum_partial_dword:
	test esi, 4
	jz csum_partial_word
	mov edx, [rdi]
	add rax, rdx
	add rdi, 4
csum_partial_word:
	test esi, 2
	jz csum_partial_byte
	movzx edx, word ptr [rdi]
	add rax, rdx
	add rdi, 2
csum_partial_byte:
	test esi, 1
	jz csum_partial_fold
	movzx edx, byte ptr [rdi]
	add rax, rdx
csum_partial_fold:
	mov rdx, rax
	shr rdx, 32
	add eax, edx
	adc eax, 0
	RET

# rdi from, esi its size, rdx to, ecx its size, r8d seed: the difference folded to 16 bits.
ENTRY(bpf_csum_diff)
	mov eax, esi
	or eax, ecx
	test al, 3
	jnz bpf_csum_diff_inval
	mov r9, rdi
	mov r10d, esi
	mov r11d, ecx
	mov eax, r8d
	test ecx, ecx
	jz bpf_csum_diff_no_to
	mov rdi, rdx
	mov esi, ecx
	mov edx, r8d
	call csum_partial
	test r10d, r10d
	jz bpf_csum_diff_fold
	mov r8d, eax
	mov rdi, r9
	mov esi, r10d
	xor edx, edx
	call csum_partial
	not eax
	add eax, r8d
	adc eax, 0
	jmp bpf_csum_diff_fold
bpf_csum_diff_no_to:
	test r10d, r10d
	jz bpf_csum_diff_fold
	mov edx, r8d
	not edx
	call csum_partial
	not eax
bpf_csum_diff_fold:
	mov edx, eax
	rorx edx, edx, 16
	add eax, edx
	shr eax, 16
	RET
bpf_csum_diff_inval:
	mov rax, CONST_MINUS_EINVAL
	RET
