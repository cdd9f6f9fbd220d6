# SPDX-License-Identifier: GPL-2.0-only
# Longest-prefix-match tries (kernel_model/maps/lpm_trie.py has the other side).

# rdi trie, rsi key: the address of the value of the longest prefix that covers the key, or 0.
# ecx is the key's prefix, r9 the bytes of its data, r11 the longest prefix, rdi the best node so far.
ENTRY(trie_lookup_elem)
	mov r11, [rdi + OFF_lpm_trie_max_prefixlen]
	mov r9, [rdi + OFF_lpm_trie_data_size]
	mov rax, [rdi + OFF_lpm_trie_root]
	mov ecx, [rsi]
	xor edi, edi
	cmp rcx, r11
	ja trie_lookup_elem_done
	test rax, rax
	jz trie_lookup_elem_done
trie_lookup_elem_node:
	# edx counts the bits that agree, up to the shorter of both prefixes in r10d; r8 is the place in the data.
	mov r10d, [rax + OFF_lpm_trie_node_prefixlen]
	cmp r10d, ecx
	cmova r10d, ecx
	xor edx, edx
	xor r8d, r8d
	cmp r9, 8
	jb trie_lookup_elem_word
	mov rdx, [rax + OFF_lpm_trie_node_data]
	xor rdx, [rsi + 4]
	bswap rdx
	lzcnt rdx, rdx
	cmp edx, r10d
	jae trie_lookup_elem_all
	cmp edx, 64
	jne trie_lookup_elem_matched
	mov r8d, 8
trie_lookup_elem_word:
	push rcx
trie_lookup_elem_words:
	lea rcx, [r8 + 4]
	cmp r9, rcx
	jb trie_lookup_elem_half
	mov ecx, [rax + r8 + OFF_lpm_trie_node_data]
	xor ecx, [rsi + r8 + 4]
	bswap ecx
	lzcnt ecx, ecx
	add edx, ecx
	cmp edx, r10d
	jae trie_lookup_elem_pop_all
	add r8, 4
	cmp ecx, 32
	je trie_lookup_elem_words
	pop rcx
	jmp trie_lookup_elem_matched
trie_lookup_elem_half:
	test r9b, 2
	jz trie_lookup_elem_byte
	movzx ecx, word ptr [rax + r8 + OFF_lpm_trie_node_data]
	xor cx, [rsi + r8 + 4]
	bswap ecx
	or ecx, 0x8000
	lzcnt ecx, ecx
	add edx, ecx
	cmp edx, r10d
	jae trie_lookup_elem_pop_all
	add r8, 2
	cmp ecx, 16
	je trie_lookup_elem_byte
	pop rcx
	jmp trie_lookup_elem_matched
trie_lookup_elem_byte:
	test r9b, 1
	jz trie_lookup_elem_pop
	movzx ecx, byte ptr [rax + r8 + OFF_lpm_trie_node_data]
	xor cl, [rsi + r8 + 4]
	shl ecx, 24
	or ecx, 0x800000
	lzcnt ecx, ecx
	add edx, ecx
	cmp edx, r10d
	jae trie_lookup_elem_pop_all
trie_lookup_elem_pop:
	pop rcx
	jmp trie_lookup_elem_matched
trie_lookup_elem_pop_all:
	pop rcx
trie_lookup_elem_all:
	mov edx, r10d
trie_lookup_elem_matched:
	cmp rdx, r11
	je trie_lookup_elem_exact
	mov r8d, [rax + OFF_lpm_trie_node_prefixlen]
	cmp edx, r8d
	jb trie_lookup_elem_done
	test byte ptr [rax + OFF_lpm_trie_node_flags], 1
	cmovz rdi, rax
	# The next bit of the key chooses the child.
	mov edx, r8d
	shr r8d, 3
	movzx r8d, byte ptr [rsi + r8 + 4]
	not edx
	and edx, 7
	shrx r8d, r8d, edx
	and r8d, 1
	mov rax, [rax + r8*8 + OFF_lpm_trie_node_child]
	test rax, rax
	jnz trie_lookup_elem_node
trie_lookup_elem_done:
	mov rax, rdi
	test rax, rax
	jz trie_lookup_elem_none
trie_lookup_elem_exact:
	lea rax, [rax + r9 + OFF_lpm_trie_node_data]
trie_lookup_elem_none:
	RET
