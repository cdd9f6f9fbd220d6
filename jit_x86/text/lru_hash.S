# SPDX-License-Identifier: GPL-2.0-only
# Updates and deletions of hash maps that evict (kernel_model/maps/lru_hash.py and lru_list.py have the other
# side and describe the lists). As long as this CPU has free elements in stock, nothing need be evicted and all
# is done here; a refill of the stock, and the lists of BPF_F_NO_COMMON_LRU, are Python's. Registers as in
# hash_update.S.

# Goes to \slow unless this CPU's stock, found from the map at rdi, has an element. Uses rax.
.macro LRU_NEEDS_STOCK slow
	cmp byte ptr [rdi + OFF_bpf_htab_lru + OFF_bpf_lru_percpu], 0
	jne \slow
	mov rax, SYM_this_cpu_off
	mov rax, gs:[rax]
	add rax, [rdi + OFF_bpf_htab_lru + OFF_bpf_lru_common_lru_local_list]
	cmp qword ptr [rax + OFF_bpf_lru_locallist_free_llist_first], 0
	je \slow
.endm

# The list node at rdi leaves its list. Uses rax and rdx.
.macro LRU_LIST_DEL
	mov rax, [rdi]
	mov rdx, [rdi + 8]
	mov [rax + 8], rdx
	mov [rdx], rax
.endm

# The list node at rdi becomes the first of the list at \head. Uses rax.
.macro LRU_LIST_ADD head
	mov rax, [\head]
	mov [rdi], rax
	mov [rdi + 8], \head
	mov [\head], rdi
	mov [rax + 8], rdi
.endm

# An element from the stock, now pending, with key and hash, at rbp. It counts as used when it replaces one.
__htab_lru_pop:
	mov r8, SYM_this_cpu_off
	mov r8, gs:[r8]
	add r8, [rbx + OFF_bpf_htab_lru + OFF_bpf_lru_common_lru_local_list]
	mov rdi, [r8 + OFF_bpf_lru_locallist_free_llist_first]
	mov rax, [rdi]
	mov [r8 + OFF_bpf_lru_locallist_free_llist_first], rax
	mov rcx, SYM_cpu_number
	mov eax, gs:[rcx]
	mov [rdi + OFF_bpf_lru_node_cpu], ax
	mov byte ptr [rdi + OFF_bpf_lru_node_type], CONST_BPF_LRU_LOCAL_LIST_T_PENDING
	test r13, r13
	setnz al
	mov [rdi + OFF_bpf_lru_node_ref], al
	lea r8, [r8 + OFF_bpf_lru_locallist_pending_list]
	LRU_LIST_ADD r8
	mov rsi, rbp
	lea rbp, [rdi - OFF_htab_elem_lru_node]
	mov [rbp + OFF_htab_elem_hash], r14d
	lea rdi, [rbp + OFF_htab_elem_key]
	mov edx, [rbx + OFF_bpf_map_key_size]
	jmp memcpy

# The element at r13 of the map at rbx is out of the table: into the stock of the CPU that added it while it
# is pending there, else to the free list of its struct bpf_lru_list.
__htab_lru_push_free:
	lea rdi, [r13 + OFF_htab_elem_lru_node]
	movzx eax, word ptr [rdi + OFF_bpf_lru_node_cpu]
	mov rcx, SYM___per_cpu_offset
	mov rcx, [rcx + rax*8]
	movzx r8d, byte ptr [rdi + OFF_bpf_lru_node_type]
	cmp byte ptr [rbx + OFF_bpf_htab_lru + OFF_bpf_lru_percpu], 0
	jne __htab_lru_push_free_percpu
	cmp r8d, CONST_BPF_LRU_LOCAL_LIST_T_PENDING
	jne __htab_lru_push_free_common
	add rcx, [rbx + OFF_bpf_htab_lru + OFF_bpf_lru_common_lru_local_list]
	LRU_LIST_DEL
	mov byte ptr [rdi + OFF_bpf_lru_node_type], CONST_BPF_LRU_LOCAL_LIST_T_FREE
	mov byte ptr [rdi + OFF_bpf_lru_node_ref], 0
	mov rax, [rcx + OFF_bpf_lru_locallist_free_llist_first]
	mov [rdi], rax
	mov [rcx + OFF_bpf_lru_locallist_free_llist_first], rdi
	RET
__htab_lru_push_free_percpu:
	add rcx, [rbx + OFF_bpf_htab_lru + OFF_bpf_lru_percpu_lru]
	jmp __htab_lru_push_free_list
__htab_lru_push_free_common:
	lea rcx, [rbx + OFF_bpf_htab_lru + OFF_bpf_lru_common_lru_lru_list]
__htab_lru_push_free_list:
	# Active and inactive nodes are counted.
	cmp r8d, CONST_BPF_LRU_LIST_T_FREE
	jae __htab_lru_push_free_uncounted
	sub dword ptr [rcx + r8*4 + OFF_bpf_lru_list_counts], 1
__htab_lru_push_free_uncounted:
	mov byte ptr [rdi + OFF_bpf_lru_node_type], CONST_BPF_LRU_LIST_T_FREE
	mov byte ptr [rdi + OFF_bpf_lru_node_ref], 0
	cmp [rcx + OFF_bpf_lru_list_next_inactive_rotation], rdi
	jne __htab_lru_push_free_move
	mov rdx, [rdi + 8]
	mov [rcx + OFF_bpf_lru_list_next_inactive_rotation], rdx
__htab_lru_push_free_move:
	LRU_LIST_DEL
	lea rcx, [rcx + OFF_bpf_lru_list_lists + CONST_BPF_LRU_LIST_T_FREE * SIZEOF_list_head]
	LRU_LIST_ADD rcx
	RET

# rdi map, rsi key, rdx value, rcx flags: 0 or an error.
ENTRY(htab_lru_map_update_elem)
	cmp rcx, CONST_BPF_EXIST
	ja htab_map_update_elem_inval
	LRU_NEEDS_STOCK htab_lru_map_update_elem_slow
	HTAB_UPDATE_ENTER
	call __htab_lru_pop
	HTAB_PUT_VALUE
	call __htab_lru_push_free
	jmp htab_map_update_elem_done

# An element that is there is updated in place; the one that Linux takes from the stock before it looks would
# only go back.
ENTRY(htab_lru_percpu_map_update_elem)
	cmp rcx, CONST_BPF_EXIST
	ja htab_map_update_elem_inval
	LRU_NEEDS_STOCK htab_lru_percpu_map_update_elem_slow
	HTAB_UPDATE_ENTER
	test r13, r13
	jz htab_lru_percpu_map_update_elem_new
	mov byte ptr [r13 + OFF_htab_elem_lru_node_ref], 1
	jmp htab_percpu_map_update_elem_there
htab_lru_percpu_map_update_elem_new:
	call __htab_lru_pop
	jmp htab_percpu_map_update_elem_fresh

# rdi map, rsi key: 0 or an error.
ENTRY(htab_lru_map_delete_elem)
	push rbx
	push r13
	mov rbx, rdi
	call __htab_map_lookup_elem
	mov r13, rax
	test rax, rax
	jz htab_map_delete_elem_noent
	call __htab_unlink_elem
	call __htab_lru_push_free
	xor eax, eax
	pop r13
	pop rbx
	RET
