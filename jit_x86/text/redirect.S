# SPDX-License-Identifier: GPL-2.0-only
# Redirection: the helper notes the target in this CPU's bpf_redirect_info, the driver acts on it later.

# bpf_redirect() of XDP programs: edi interface, rsi flags (none is legal): an XDP verdict.
ENTRY(bpf_xdp_redirect)
	test rsi, rsi
	jnz bpf_xdp_redirect_aborted
	mov rax, SYM_bpf_redirect_info
	mov edi, edi
	mov gs:[rax + OFF_bpf_redirect_info_tgt_index], rdi
	mov dword ptr gs:[rax + OFF_bpf_redirect_info_map_id], CONST_INT_MAX
	mov dword ptr gs:[rax + OFF_bpf_redirect_info_map_type], CONST_BPF_MAP_TYPE_UNSPEC
	mov eax, CONST_XDP_REDIRECT
	RET
bpf_xdp_redirect_aborted:
	mov eax, CONST_XDP_ABORTED
	RET

# bpf_redirect() of tc programs: edi interface, rsi flags: a tc verdict.
ENTRY(bpf_redirect)
	test rsi, -1 - CONST_BPF_F_INGRESS
	jnz bpf_redirect_shot
	mov rax, SYM_bpf_redirect_info
	mov edi, edi
	mov gs:[rax + OFF_bpf_redirect_info_tgt_index], rdi
	mov gs:[rax + OFF_bpf_redirect_info_flags], esi
	mov eax, CONST_TC_ACT_REDIRECT
	RET
# bpf_redirect_peer(): the device at the other end of edi; rsi flags (none is legal).
ENTRY(bpf_redirect_peer)
	test rsi, rsi
	jnz bpf_redirect_shot
	mov rax, SYM_bpf_redirect_info
	mov edi, edi
	mov gs:[rax + OFF_bpf_redirect_info_tgt_index], rdi
	mov dword ptr gs:[rax + OFF_bpf_redirect_info_flags], CONST_BPF_F_PEER
	mov eax, CONST_TC_ACT_REDIRECT
	RET
bpf_redirect_shot:
	mov eax, CONST_TC_ACT_SHOT
	RET

# rdi map, rsi index, rdx flags: an XDP verdict. What a map without the entry answers is in the low flags.
ENTRY(bpf_xdp_redirect_map)
	mov rax, [rdi + OFF_bpf_map_ops]
	mov rax, [rax + OFF_bpf_map_ops_map_redirect]
	jmp __x86_indirect_thunk_rax

# Maps of devices: esi index; the value is within the entry. 0 for no entry.
ENTRY(dev_map_lookup_elem)
	mov esi, [rsi]
	call __dev_map_lookup_elem
	jmp dev_map_value
ENTRY(dev_map_hash_lookup_elem)
	mov esi, [rsi]
	call __dev_map_hash_lookup_elem
dev_map_value:
	test rax, rax
	jz dev_map_no_value
	add rax, OFF_bpf_dtab_netdev_val
dev_map_no_value:
	RET

__dev_map_lookup_elem:
	xor eax, eax
	cmp esi, [rdi + OFF_bpf_map_max_entries]
	jae __dev_map_lookup_elem_out
	mov esi, esi
	mov rax, [rdi + OFF_bpf_dtab_netdev_map]
	mov rax, [rax + rsi*8]
__dev_map_lookup_elem_out:
	RET

__dev_map_hash_lookup_elem:
	mov eax, [rdi + OFF_bpf_dtab_n_buckets]
	sub eax, 1
	and eax, esi
	mov rcx, [rdi + OFF_bpf_dtab_dev_index_head]
	mov rax, [rcx + rax*8]
__dev_map_hash_lookup_elem_next:
	test rax, rax
	jz __dev_map_lookup_elem_out
	cmp [rax + OFF_bpf_dtab_netdev_idx - OFF_bpf_dtab_netdev_index_hlist], esi
	je __dev_map_hash_lookup_elem_found
	mov rax, [rax]
	jmp __dev_map_hash_lookup_elem_next
__dev_map_hash_lookup_elem_found:
	sub rax, OFF_bpf_dtab_netdev_index_hlist
	RET

ENTRY(dev_map_redirect)
	test rdx, -1 - 3 - CONST_BPF_F_BROADCAST - CONST_BPF_F_EXCLUDE_INGRESS
	jnz bpf_xdp_redirect_aborted
	call __dev_map_lookup_elem
	jmp __bpf_xdp_redirect_map
ENTRY(dev_hash_map_redirect)
	test rdx, -1 - 3 - CONST_BPF_F_BROADCAST - CONST_BPF_F_EXCLUDE_INGRESS
	jnz bpf_xdp_redirect_aborted
	call __dev_map_hash_lookup_elem

# rdi map, esi index, rdx flags, rax the entry that the map has, or 0.
__bpf_xdp_redirect_map:
	mov r8, SYM_this_cpu_off
	mov r8, gs:[r8]
	mov rcx, SYM_bpf_redirect_info
	add r8, rcx
	mov [r8 + OFF_bpf_redirect_info_tgt_value], rax
	test edx, CONST_BPF_F_BROADCAST
	jnz __bpf_xdp_redirect_map_broadcast
	test rax, rax
	jz __bpf_xdp_redirect_map_none
	xor r9d, r9d
	xor edx, edx
__bpf_xdp_redirect_map_note:
	mov esi, esi
	mov [r8 + OFF_bpf_redirect_info_tgt_index], rsi
	mov eax, [rdi + OFF_bpf_map_id]
	mov [r8 + OFF_bpf_redirect_info_map_id], eax
	mov eax, [rdi + OFF_bpf_map_map_type]
	mov [r8 + OFF_bpf_redirect_info_map_type], eax
	mov [r8 + OFF_bpf_redirect_info_map], r9
	mov [r8 + OFF_bpf_redirect_info_flags], edx
	mov eax, CONST_XDP_REDIRECT
	RET
__bpf_xdp_redirect_map_broadcast:
	mov r9, rdi
	jmp __bpf_xdp_redirect_map_note
__bpf_xdp_redirect_map_none:
	# Of several redirections the last one counts, also when it failed.
	mov dword ptr [r8 + OFF_bpf_redirect_info_map_id], CONST_INT_MAX
	mov dword ptr [r8 + OFF_bpf_redirect_info_map_type], CONST_BPF_MAP_TYPE_UNSPEC
	mov eax, edx
	and eax, 3
	RET
