# SPDX-License-Identifier: GPL-2.0-only
# Hash maps (kernel_model/maps/hash.py has the other side and describes the structures).
#
# The hash is Bob Jenkins' lookup3 of the key with the map's seed. Rotations are rorx, which leaves the
# flags alone: the emulator makes every flag of a rol into a call of its own.

# x -= z; x ^= rol(z, n); z += y
.macro HASH_MIX x, y, z, n
	sub \x, \z
	rorx edx, \z, 32 - \n
	xor \x, edx
	add \z, \y
.endm

# x ^= y; x -= rol(y, n)
.macro HASH_FINAL x, y, n
	xor \x, \y
	rorx edx, \y, 32 - \n
	sub \x, edx
.endm

# Twelve bytes of the key at \key into the state: r8d, r9d, eax.
.macro JHASH_BLOCK key
	add r8d, [\key]
	add r9d, [\key + 4]
	add eax, [\key + 8]
	HASH_MIX r8d, r9d, eax, 4
	HASH_MIX r9d, eax, r8d, 6
	HASH_MIX eax, r8d, r9d, 8
	HASH_MIX r8d, r9d, eax, 16
	HASH_MIX r9d, eax, r8d, 19
	HASH_MIX eax, r8d, r9d, 4
.endm

# The state's last scramble; the hash is eax.
.macro JHASH_FINAL
	HASH_FINAL eax, r9d, 14
	HASH_FINAL r8d, eax, 11
	HASH_FINAL r9d, r8d, 25
	HASH_FINAL eax, r9d, 16
	HASH_FINAL r8d, eax, 4
	HASH_FINAL r9d, r8d, 14
	HASH_FINAL eax, r9d, 24
.endm

# rdi map, rsi key: the element's address, or 0. Called by generated code directly.
# For callers in this file: rdi and rsi are kept, ecx is the hash and r8 the bucket's address.
ENTRY(__htab_map_lookup_elem)
	mov r11d, [rdi + OFF_bpf_map_key_size]
	mov r10, rsi
	mov eax, [rdi + OFF_bpf_htab_hashrnd]
	lea eax, [rax + r11 + CONST_JHASH_INITVAL]
	mov r8d, eax
	mov r9d, eax
	cmp r11d, 12
	jbe __htab_map_lookup_elem_last
__htab_map_lookup_elem_block:
	JHASH_BLOCK r10
	add r10, 12
	sub r11d, 12
	cmp r11d, 12
	ja __htab_map_lookup_elem_block
__htab_map_lookup_elem_last:
	# 1 to 12 bytes are left in r11d; those of an incomplete word come first, in edx.
	test r11d, 3
	jnz __htab_map_lookup_elem_part
	cmp r11d, 8
	jb __htab_map_lookup_elem_word1
	je __htab_map_lookup_elem_word2
	add eax, [r10 + 8]
__htab_map_lookup_elem_word2:
	add r9d, [r10 + 4]
__htab_map_lookup_elem_word1:
	add r8d, [r10]
__htab_map_lookup_elem_final:
	JHASH_FINAL

	mov ecx, eax
	mov r8d, [rdi + OFF_bpf_htab_n_buckets]
	sub r8d, 1
	and r8d, eax
	imul r8, r8, SIZEOF_bucket
	add r8, [rdi + OFF_bpf_htab_buckets]
	mov r9d, [rdi + OFF_bpf_map_key_size]
	mov rax, [r8 + OFF_bucket_head_first]
	test al, 1
	jnz __htab_map_lookup_elem_none
__htab_map_lookup_elem_walk:
	cmp [rax + OFF_htab_elem_hash], ecx
	jne __htab_map_lookup_elem_next
	xor r10d, r10d
	mov r11d, r9d
	sub r11d, 8
	jb __htab_map_lookup_elem_tail
__htab_map_lookup_elem_words:
	mov rdx, [rsi + r10]
	cmp rdx, [rax + r10 + OFF_htab_elem_key]
	jne __htab_map_lookup_elem_next
	add r10, 8
	sub r11d, 8
	jae __htab_map_lookup_elem_words
__htab_map_lookup_elem_tail:
	# r11d is the number of bytes left, less 8: its low bits say which loads remain.
	test r11d, 7
	jz __htab_map_lookup_elem_found
	test r11d, 4
	jz __htab_map_lookup_elem_tail2
	mov edx, [rsi + r10]
	cmp edx, [rax + r10 + OFF_htab_elem_key]
	jne __htab_map_lookup_elem_next
	add r10, 4
__htab_map_lookup_elem_tail2:
	test r11d, 2
	jz __htab_map_lookup_elem_tail1
	movzx edx, word ptr [rsi + r10]
	cmp dx, [rax + r10 + OFF_htab_elem_key]
	jne __htab_map_lookup_elem_next
	add r10, 2
__htab_map_lookup_elem_tail1:
	test r11d, 1
	jz __htab_map_lookup_elem_found
	movzx edx, byte ptr [rsi + r10]
	cmp dl, [rax + r10 + OFF_htab_elem_key]
	jne __htab_map_lookup_elem_next
__htab_map_lookup_elem_found:
	RET
__htab_map_lookup_elem_next:
	mov rax, [rax + OFF_htab_elem_hash_node_next]
	test al, 1
	jz __htab_map_lookup_elem_walk
__htab_map_lookup_elem_none:
	xor eax, eax
	RET

__htab_map_lookup_elem_part:
	mov ecx, r11d
	and ecx, 12
	add rcx, r10
	test r11d, 2
	jz __htab_map_lookup_elem_part1
	movzx edx, word ptr [rcx]
	test r11d, 1
	jz __htab_map_lookup_elem_parted
	movzx ecx, byte ptr [rcx + 2]
	shl ecx, 16
	or edx, ecx
	jmp __htab_map_lookup_elem_parted
__htab_map_lookup_elem_part1:
	movzx edx, byte ptr [rcx]
__htab_map_lookup_elem_parted:
	cmp r11d, 4
	jb __htab_map_lookup_elem_part_a
	cmp r11d, 8
	jb __htab_map_lookup_elem_part_b
	add eax, edx
	jmp __htab_map_lookup_elem_word2
__htab_map_lookup_elem_part_b:
	add r9d, edx
	jmp __htab_map_lookup_elem_word1
__htab_map_lookup_elem_part_a:
	add r8d, edx
	jmp __htab_map_lookup_elem_final

# rdi map, rsi key: the value's address, or 0.
ENTRY(htab_map_lookup_elem)
	call __htab_map_lookup_elem
	test rax, rax
	jz htab_map_lookup_elem_none
	mov ecx, [rdi + OFF_bpf_map_key_size]
	add ecx, 7
	and ecx, -8
	lea rax, [rax + rcx + OFF_htab_elem_key]
htab_map_lookup_elem_none:
	RET

# The address of this CPU's value, or 0.
ENTRY(htab_percpu_map_lookup_elem)
	call htab_map_lookup_elem
	test rax, rax
	jz htab_percpu_map_lookup_elem_none
	mov rax, [rax]
	mov rcx, SYM_this_cpu_off
	add rax, gs:[rcx]
htab_percpu_map_lookup_elem_none:
	RET

# The address of the inner map, or 0.
ENTRY(htab_of_map_lookup_elem)
	call htab_map_lookup_elem
	test rax, rax
	jz htab_of_map_lookup_elem_none
	mov rax, [rax]
htab_of_map_lookup_elem_none:
	RET

# Maps that evict: a program's lookup marks the element as used.
ENTRY(htab_lru_map_lookup_elem)
	call __htab_map_lookup_elem
	test rax, rax
	jz htab_lru_map_lookup_elem_none
	cmp byte ptr [rax + OFF_htab_elem_lru_node_ref], 0
	jne htab_lru_map_lookup_elem_marked
	mov byte ptr [rax + OFF_htab_elem_lru_node_ref], 1
htab_lru_map_lookup_elem_marked:
	mov ecx, [rdi + OFF_bpf_map_key_size]
	add ecx, 7
	and ecx, -8
	lea rax, [rax + rcx + OFF_htab_elem_key]
htab_lru_map_lookup_elem_none:
	RET

ENTRY(htab_lru_percpu_map_lookup_elem)
	call htab_lru_map_lookup_elem
	test rax, rax
	jz htab_lru_map_lookup_elem_none
	mov rax, [rax]
	mov rcx, SYM_this_cpu_off
	add rax, gs:[rcx]
	RET

# rdi map, rsi key, edx CPU: the address of that CPU's value, or 0.
ENTRY(htab_lru_percpu_map_lookup_percpu_elem)
	mov rax, SYM_nr_cpu_ids
	cmp edx, [rax]
	jae htab_percpu_map_lookup_percpu_elem_none
	push rdx
	call htab_lru_map_lookup_elem
	jmp htab_percpu_map_lookup_percpu_elem_value
