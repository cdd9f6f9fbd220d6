# SPDX-License-Identifier: GPL-2.0-only
# Updates and deletions of hash maps; hash_map.S has the lookups, kernel_model/maps/hash.py the other side.
#
# Between HTAB_ENTER and HTAB_LEAVE: rbx map, rbp key and then the new element, r12 value, r13 the element
# that is there (0 for none), r14d hash, r15 bucket.

.macro HTAB_ENTER
	push rbx
	push rbp
	push r12
	push r13
	push r14
	push r15
.endm

.macro HTAB_LEAVE
	pop r15
	pop r14
	pop r13
	pop r12
	pop rbp
	pop rbx
.endm

# The address of an element's value. \size is a 32-bit register for the key's size, \full the same in 64.
.macro HTAB_VALUE dest, elem, size, full
	mov \size, [rbx + OFF_bpf_map_key_size]
	add \size, 7
	and \size, -8
	lea \dest, [\elem + \full + OFF_htab_elem_key]
.endm

# The beginning of every update, which ends here when the flags and the element that is there disagree.
.macro HTAB_UPDATE_ENTER
	HTAB_ENTER
	call __htab_update_begin
	test rax, rax
	jnz htab_map_update_elem_out
.endm

# The value goes into the new element, which takes the old one's place; ends here when there was none.
.macro HTAB_PUT_VALUE
	HTAB_VALUE rdi, rbp, edi, rdi
	mov rsi, r12
	mov edx, [rbx + OFF_bpf_map_value_size]
	call memcpy
	call __htab_link_elem
	test r13, r13
	jz htab_map_update_elem_done
	call __htab_unlink_elem
.endm

# rdi map, rsi key, rdx value, ecx flags, behind HTAB_ENTER: finds the element that is there and compares with
# the flags. eax is 0 or the error.
__htab_update_begin:
	mov rbx, rdi
	mov rbp, rsi
	mov r12, rdx
	push rcx
	call __htab_map_lookup_elem
	mov r13, rax
	mov r14d, ecx
	mov r15, r8
	pop rcx
	test r13, r13
	jz __htab_update_begin_absent
	cmp ecx, CONST_BPF_NOEXIST
	je __htab_update_begin_exists
	xor eax, eax
	RET
__htab_update_begin_absent:
	cmp ecx, CONST_BPF_EXIST
	je __htab_update_begin_noent
	xor eax, eax
	RET
__htab_update_begin_exists:
	mov rax, CONST_MINUS_EEXIST
	RET
__htab_update_begin_noent:
	mov rax, CONST_MINUS_ENOENT
	RET

# A new element with key and hash, at rbp; rax is 0 or the error. A preallocated map that has the element
# already hands out this CPU's spare one, and the old one becomes the spare.
__htab_alloc_elem:
	mov rax, [rbx + OFF_bpf_htab_freelist]
	test rax, rax
	jz __htab_alloc_elem_new
	mov rcx, SYM_this_cpu_off
	mov r8, gs:[rcx]
	test r13, r13
	jz __htab_alloc_elem_pop
	add r8, [rbx + OFF_bpf_htab_extra_elems]
	mov rax, [r8]
	mov [r8], r13
	jmp __htab_alloc_elem_fill
__htab_alloc_elem_pop:
	add r8, rax
	mov rcx, [r8 + OFF_pcpu_freelist_head_first]
	test rcx, rcx
	jz __htab_alloc_elem_steal
__htab_alloc_elem_popped:
	mov rdx, [rcx]
	mov [r8 + OFF_pcpu_freelist_head_first], rdx
	lea rax, [rcx - OFF_htab_elem_fnode]
__htab_alloc_elem_fill:
	mov [rax + OFF_htab_elem_hash], r14d
	mov edx, [rbx + OFF_bpf_map_key_size]
	mov rsi, rbp
	mov rbp, rax
	lea rdi, [rax + OFF_htab_elem_key]
	call memcpy
	xor eax, eax
	RET

# This CPU has none left: the next CPU's list that has one.
__htab_alloc_elem_steal:
	mov rcx, SYM_cpu_number
	mov r9d, gs:[rcx]
	mov rdx, SYM_nr_cpu_ids
	mov r10d, [rdx]
	mov r11d, r10d
	mov rdi, SYM___per_cpu_offset
__htab_alloc_elem_steal_next:
	sub r11d, 1
	jz __htab_alloc_elem_full
	add r9d, 1
	cmp r9d, r10d
	jb __htab_alloc_elem_steal_look
	xor r9d, r9d
__htab_alloc_elem_steal_look:
	mov r8, [rdi + r9*8]
	add r8, rax
	mov rcx, [r8 + OFF_pcpu_freelist_head_first]
	test rcx, rcx
	jz __htab_alloc_elem_steal_next
	jmp __htab_alloc_elem_popped
__htab_alloc_elem_full:
	mov rax, CONST_MINUS_E2BIG
	RET

# Without preallocation: from the map's allocator. The old element is freed only afterwards, so that a full
# map still takes updates.
__htab_alloc_elem_new:
	test r13, r13
	jnz __htab_alloc_elem_take
	mov eax, [rbx + OFF_bpf_htab_count]
	cmp eax, [rbx + OFF_bpf_map_max_entries]
	jae __htab_alloc_elem_full
__htab_alloc_elem_take:
	mov rdi, [rbx + OFF_bpf_htab_ma_cache]
	call bpf_mem_cache_alloc
	test rax, rax
	jz __htab_alloc_elem_nomem
	mov rdi, [rbx + OFF_bpf_htab_pcpu_ma_cache]
	test rdi, rdi
	jz __htab_alloc_elem_taken
	push rax
	call bpf_mem_cache_alloc
	pop rsi
	test rax, rax
	jz __htab_alloc_elem_novalues
	mov [rsi + OFF_htab_elem_ptr_to_pptr], rax
	mov rdx, [rax]
	mov rax, rsi
	HTAB_VALUE rcx, rax, ecx, rcx
	mov [rcx], rdx
__htab_alloc_elem_taken:
	add dword ptr [rbx + OFF_bpf_htab_count], 1
	jmp __htab_alloc_elem_fill
__htab_alloc_elem_novalues:
	mov rdi, [rbx + OFF_bpf_htab_ma_cache]
	call bpf_mem_cache_free
__htab_alloc_elem_nomem:
	mov rax, CONST_MINUS_ENOMEM
	RET

# The element at rbp becomes the first of the bucket's chain.
__htab_link_elem:
	mov rax, [r15 + OFF_bucket_head_first]
	mov [rbp + OFF_htab_elem_hash_node_next], rax
	mov [rbp + OFF_htab_elem_hash_node_pprev], r15
	mov [r15 + OFF_bucket_head_first], rbp
	test al, 1
	jnz __htab_link_elem_done
	mov [rax + OFF_htab_elem_hash_node_pprev], rbp
__htab_link_elem_done:
	RET

# The element at r13 leaves its chain; it still points onwards, for readers that stand on it.
__htab_unlink_elem:
	mov rax, [r13 + OFF_htab_elem_hash_node_next]
	mov rcx, [r13 + OFF_htab_elem_hash_node_pprev]
	mov [rcx], rax
	test al, 1
	jnz __htab_unlink_elem_last
	mov [rax + OFF_htab_elem_hash_node_pprev], rcx
__htab_unlink_elem_last:
	movabs rcx, CONST_LIST_POISON2
	mov [r13 + OFF_htab_elem_hash_node_pprev], rcx
	RET

# The element at r13 of the map at rbx goes back to the map's allocator.
__htab_free_elem:
	sub dword ptr [rbx + OFF_bpf_htab_count], 1
	mov rdi, [rbx + OFF_bpf_htab_pcpu_ma_cache]
	test rdi, rdi
	jz __htab_free_elem_plain
	mov rsi, [r13 + OFF_htab_elem_ptr_to_pptr]
	call bpf_mem_cache_free
__htab_free_elem_plain:
	mov rdi, [rbx + OFF_bpf_htab_ma_cache]
	mov rsi, r13
	jmp bpf_mem_cache_free

# rdi map, rsi key, rdx value, rcx flags: 0 or an error. A new element takes the old one's place.
ENTRY(htab_map_update_elem)
	cmp rcx, CONST_BPF_EXIST
	ja htab_map_update_elem_inval
	HTAB_UPDATE_ENTER
	call __htab_alloc_elem
	test rax, rax
	jnz htab_map_update_elem_out
	HTAB_PUT_VALUE
	cmp qword ptr [rbx + OFF_bpf_htab_freelist], 0
	jne htab_map_update_elem_done
	call __htab_free_elem
htab_map_update_elem_done:
	xor eax, eax
htab_map_update_elem_out:
	HTAB_LEAVE
	RET
htab_map_update_elem_inval:
	mov rax, CONST_MINUS_EINVAL
	RET

# The same for per-CPU values: this CPU's changes in place; a new element is zero on the others.
ENTRY(htab_percpu_map_update_elem)
	cmp rcx, CONST_BPF_EXIST
	ja htab_map_update_elem_inval
	HTAB_UPDATE_ENTER
	test r13, r13
	jnz htab_percpu_map_update_elem_there
	call __htab_alloc_elem
	test rax, rax
	jnz htab_map_update_elem_out
htab_percpu_map_update_elem_fresh:
	HTAB_VALUE rdi, rbp, edi, rdi
	mov r13, [rdi]
	mov rax, SYM_nr_cpu_ids
	mov r14d, [rax]
htab_percpu_map_update_elem_zero:
	sub r14d, 1
	mov rdi, SYM___per_cpu_offset
	mov rdi, [rdi + r14*8]
	add rdi, r13
	xor esi, esi
	mov edx, [rbx + OFF_bpf_map_value_size]
	add edx, 7
	and edx, -8
	call memset
	test r14d, r14d
	jnz htab_percpu_map_update_elem_zero
	mov rdi, r13
	xor r13d, r13d
	jmp htab_percpu_map_update_elem_copy
htab_percpu_map_update_elem_there:
	HTAB_VALUE rdi, r13, edi, rdi
	mov rdi, [rdi]
htab_percpu_map_update_elem_copy:
	mov rcx, SYM_this_cpu_off
	add rdi, gs:[rcx]
	mov rsi, r12
	mov edx, [rbx + OFF_bpf_map_value_size]
	call memcpy
	test r13, r13
	jnz htab_map_update_elem_done
	call __htab_link_elem
	jmp htab_map_update_elem_done

# rdi map, rsi key: 0 or an error.
ENTRY(htab_map_delete_elem)
	push rbx
	push r13
	mov rbx, rdi
	call __htab_map_lookup_elem
	mov r13, rax
	test rax, rax
	jz htab_map_delete_elem_noent
	call __htab_unlink_elem
	mov rax, [rbx + OFF_bpf_htab_freelist]
	test rax, rax
	jz htab_map_delete_elem_free
	mov rcx, SYM_this_cpu_off
	add rax, gs:[rcx]
	mov rcx, [rax + OFF_pcpu_freelist_head_first]
	add r13, OFF_htab_elem_fnode
	mov [r13], rcx
	mov [rax + OFF_pcpu_freelist_head_first], r13
	xor eax, eax
	pop r13
	pop rbx
	RET
htab_map_delete_elem_free:
	call __htab_free_elem
	xor eax, eax
	pop r13
	pop rbx
	RET
htab_map_delete_elem_noent:
	mov rax, CONST_MINUS_ENOENT
	pop r13
	pop rbx
	RET

# rdi map, rsi key, edx CPU: the address of that CPU's value, or 0.
ENTRY(htab_percpu_map_lookup_percpu_elem)
	mov rax, SYM_nr_cpu_ids
	cmp edx, [rax]
	jae htab_percpu_map_lookup_percpu_elem_none
	push rdx
	call htab_map_lookup_elem
htab_percpu_map_lookup_percpu_elem_value:
	pop rdx
	test rax, rax
	jz htab_percpu_map_lookup_percpu_elem_none
	mov rax, [rax]
	mov edx, edx
	mov rcx, SYM___per_cpu_offset
	add rax, [rcx + rdx*8]
	RET
htab_percpu_map_lookup_percpu_elem_none:
	xor eax, eax
	RET

ENTRY(percpu_array_map_lookup_percpu_elem)
	mov rax, SYM_nr_cpu_ids
	cmp edx, [rax]
	jae htab_percpu_map_lookup_percpu_elem_none
	mov eax, [rsi]
	cmp eax, [rdi + OFF_bpf_map_max_entries]
	jae htab_percpu_map_lookup_percpu_elem_none
	and eax, [rdi + OFF_bpf_array_index_mask]
	mov rax, [rdi + rax*8 + OFF_bpf_array_pptrs]
	mov edx, edx
	mov rcx, SYM___per_cpu_offset
	add rax, [rcx + rdx*8]
	RET
