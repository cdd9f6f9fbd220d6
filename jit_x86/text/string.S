# SPDX-License-Identifier: GPL-2.0-only
# memcpy(), memset() and memmove(): eight bytes at a time. They return the destination and leave r9-r11.

# rdi destination, rsi source, rdx bytes.
ENTRY(memcpy)
	mov rax, rdi
	mov rcx, rdx
	shr rcx, 3
	jz memcpy_tail
memcpy_words:
	mov r8, [rsi]
	add rsi, 8
	mov [rdi], r8
	add rdi, 8
	sub rcx, 1
	jnz memcpy_words
memcpy_tail:
	and edx, 7
	jz memcpy_done
memcpy_bytes:
	mov cl, [rsi]
	add rsi, 1
	mov [rdi], cl
	add rdi, 1
	sub edx, 1
	jnz memcpy_bytes
memcpy_done:
	RET

# rdi destination, esi byte, rdx bytes.
ENTRY(memset)
	mov rax, rdi
	movzx esi, sil
	movabs rcx, 0x0101010101010101
	imul rsi, rcx
	mov rcx, rdx
	shr rcx, 3
	jz memset_tail
memset_words:
	mov [rdi], rsi
	add rdi, 8
	sub rcx, 1
	jnz memset_words
memset_tail:
	and edx, 7
	jz memset_done
memset_bytes:
	mov [rdi], sil
	add rdi, 1
	sub edx, 1
	jnz memset_bytes
memset_done:
	RET

# As memcpy(), for areas that may overlap.
ENTRY(memmove)
	mov rax, rdi
	sub rax, rsi
	cmp rax, rdx
	jae memcpy
	mov rax, rdi
	test rdx, rdx
	jz memmove_done
memmove_back:
	mov cl, [rsi + rdx - 1]
	mov [rdi + rdx - 1], cl
	sub rdx, 1
	jnz memmove_back
memmove_done:
	RET
