# SPDX-License-Identifier: GPL-2.0-only
# u32 jhash(const void *key, u32 length, u32 initval): rdi, esi, edx. The macros are hash_map.S's; a lookup
# there has the same steps in its own flow.
ENTRY(jhash)
	lea eax, [rsi + rdx + CONST_JHASH_INITVAL]
	mov r8d, eax
	mov r9d, eax
	cmp esi, 12
	jbe jhash_last
jhash_block:
	JHASH_BLOCK rdi
	add rdi, 12
	sub esi, 12
	cmp esi, 12
	ja jhash_block
jhash_last:
	test esi, esi
	jz jhash_done
	# The bytes that are left, in three words filled up with zeroes.
	xor ecx, ecx
	sub rsp, 16
	mov [rsp], rcx
	mov [rsp + 8], rcx
jhash_byte:
	mov dl, [rdi + rcx]
	mov [rsp + rcx], dl
	add ecx, 1
	cmp ecx, esi
	jb jhash_byte
	add r8d, [rsp]
	add r9d, [rsp + 4]
	add eax, [rsp + 8]
	add rsp, 16
	JHASH_FINAL
jhash_done:
	RET
