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
	add r8d, [rdi]
	add r9d, [rdi + 4]
	add eax, [rdi + 8]
	HASH_MIX r8d, r9d, eax, 4
	HASH_MIX r9d, eax, r8d, 6
	HASH_MIX eax, r8d, r9d, 8
	HASH_MIX r8d, r9d, eax, 16
	HASH_MIX r9d, eax, r8d, 19
	HASH_MIX eax, r8d, r9d, 4
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
	HASH_FINAL eax, r9d, 14
	HASH_FINAL r8d, eax, 11
	HASH_FINAL r9d, r8d, 25
	HASH_FINAL eax, r9d, 16
	HASH_FINAL r8d, eax, 4
	HASH_FINAL r9d, r8d, 14
	HASH_FINAL eax, r9d, 24
jhash_done:
	RET
