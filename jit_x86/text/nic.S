# SPDX-License-Identifier: GPL-2.0-only
# The network driver's hot path: a batch of packets from the receive ring through the XDP program.
#
# u64 nic_poll(struct nic_adapter *adapter, u64 budget): packets handled.
# Each handled packet leaves its verdict and the frame's final bounds in its nic_rx_buffer; the driver's
# slow half (Python) passes frames up the stack, counts, and refills the ring afterwards.
# rbx adapter, r12 packets left, r13 this packet's nic_rx_buffer, r14 packets done, r15 its descriptor.
ENTRY(nic_poll)
	push rbp
	mov rbp, rsp
	push rbx
	push r12
	push r13
	push r14
	push r15
	sub rsp, CONST_XDP_FRAME
	mov rbx, rdi
	mov r12, rsi
	xor r14d, r14d
nic_poll_next:
	cmp r14, r12
	jae nic_poll_done
	mov eax, [rbx + OFF_nic_adapter_rx_next]
	mov r15, rax
	imul r13, rax, SIZEOF_nic_rx_buffer
	add r13, [rbx + OFF_nic_adapter_rx_buffers]
	shl r15, 4
	add r15, [rbx + OFF_nic_adapter_rx_ring]
	test byte ptr [r15 + OFF_nic_rx_desc_status], 1
	je nic_poll_done
	inc eax
	and eax, [rbx + OFF_nic_adapter_rx_mask]
	mov [rbx + OFF_nic_adapter_rx_next], eax
	inc r14

	movabs rcx, SYM_sim_clock
	mov rdx, [rbx + OFF_nic_adapter_packet_cost]
	add [rcx], rdx
	movzx ecx, word ptr [r15 + OFF_nic_rx_desc_length]
	mov [r13 + OFF_nic_rx_buffer_frame_len], ecx
	inc qword ptr [rbx + OFF_nic_adapter_rx_packets]
	add [rbx + OFF_nic_adapter_rx_bytes], rcx

	mov rax, [r13 + OFF_nic_rx_buffer_page]
	mov [rsp + OFF_xdp_buff_data_hard_start], rax
	mov edx, [rbx + OFF_nic_adapter_headroom]
	add rax, rdx
	mov [rsp + OFF_xdp_buff_data], rax
	mov [rsp + OFF_xdp_buff_data_meta], rax
	add rcx, rax
	mov [rsp + OFF_xdp_buff_data_end], rcx
	lea rdx, [rbx + OFF_nic_adapter_rxq]
	mov [rsp + OFF_xdp_buff_rxq], rdx
	mov qword ptr [rsp + OFF_xdp_buff_txq], 0
	mov edx, [rbx + OFF_nic_adapter_frame_sz]
	mov [rsp + OFF_xdp_buff_frame_sz], edx
	mov dword ptr [rsp + OFF_xdp_buff_flags], 0

	mov rdx, [rbx + OFF_nic_adapter_dev]
	mov rdx, [rdx + OFF_net_device_xdp_prog]
	mov eax, CONST_XDP_PASS
	test rdx, rdx
	je nic_poll_verdict
	mov rdi, rsp
	lea rsi, [rdx + OFF_bpf_prog_insnsi]
	mov rax, [rdx + OFF_bpf_prog_bpf_func]
	call __x86_indirect_thunk_rax
nic_poll_verdict:
	mov [r13 + OFF_nic_rx_buffer_verdict], eax
	mov rcx, [rsp + OFF_xdp_buff_data]
	mov [r13 + OFF_nic_rx_buffer_data], rcx
	mov rdx, [rsp + OFF_xdp_buff_data_end]
	mov [r13 + OFF_nic_rx_buffer_data_end], rdx
	cmp eax, CONST_XDP_TX
	je nic_poll_tx
	cmp eax, CONST_XDP_REDIRECT
	je nic_poll_redirect
	cmp eax, CONST_XDP_PASS
	je nic_poll_next
	cmp eax, CONST_XDP_DROP
	je nic_poll_next
	inc qword ptr [rbx + OFF_nic_adapter_xdp_exceptions]
	jmp nic_poll_next
nic_poll_tx:
	mov rdi, rbx
	mov rsi, rcx
	sub rdx, rcx
	call nic_xmit
	jmp nic_poll_next
nic_poll_redirect:
	mov rdi, [rbx + OFF_nic_adapter_dev]
	mov rsi, rsp
	call xdp_do_redirect
	test eax, eax
	je nic_poll_next
	inc qword ptr [rbx + OFF_nic_adapter_xdp_redirect_err]
	jmp nic_poll_next
nic_poll_done:
	mov rax, r14
	add rsp, CONST_XDP_FRAME
	pop r15
	pop r14
	pop r13
	pop r12
	pop rbx
	pop rbp
	RET

# int nic_xmit(struct nic_adapter *adapter, void *data, u64 length): 0, or -ENOSPC when the ring is full.
# The card has taken the frame before the receive buffer is used again.
ENTRY(nic_xmit)
	mov eax, [rdi + OFF_nic_adapter_tx_next]
	lea ecx, [rax + 1]
	and ecx, [rdi + OFF_nic_adapter_tx_mask]
	cmp ecx, [rdi + OFF_nic_adapter_tx_clean]
	je nic_xmit_full
	mov [rdi + OFF_nic_adapter_tx_next], ecx
	shl rax, 4
	add rax, [rdi + OFF_nic_adapter_tx_ring]
	movabs rcx, CONST_DIRECT_MAP
	sub rsi, rcx
	mov [rax + OFF_nic_tx_desc_addr], rsi
	mov [rax + OFF_nic_tx_desc_length], dx
	mov word ptr [rax + OFF_nic_tx_desc_status], 1
	inc qword ptr [rdi + OFF_nic_adapter_tx_packets]
	xor eax, eax
	RET
nic_xmit_full:
	inc qword ptr [rdi + OFF_nic_adapter_tx_dropped]
	mov eax, CONST_MINUS_ENOSPC
	RET

# int xdp_do_redirect(struct net_device *dev, struct xdp_buff *xdp): send the frame where the program's
# bpf_redirect() said, when that device can send, is up and takes frames of this length
# (xdp_ok_fwd_dev()).
ENTRY(xdp_do_redirect)
	mov rdx, SYM_this_cpu_off
	mov rdx, qword ptr gs:[rdx]
	mov rcx, SYM_bpf_redirect_info
	add rdx, rcx
	mov ecx, [rdx + OFF_bpf_redirect_info_map_type]
	test ecx, ecx
	jne xdp_do_redirect_map
	mov rax, [rdx + OFF_bpf_redirect_info_tgt_index]
	mov qword ptr [rdx + OFF_bpf_redirect_info_tgt_index], 0
	cmp rax, CONST_MAX_NETDEVS
	jae xdp_do_redirect_no_device
	movabs rcx, SYM_netdev_table
	mov rax, [rcx + rax*8]
	test rax, rax
	je xdp_do_redirect_no_device
# rax is the device.
xdp_do_redirect_device:
	mov rdi, [rax + OFF_net_device_priv]
	test rdi, rdi
	je xdp_do_redirect_no_xmit
	test dword ptr [rax + OFF_net_device_flags], CONST_IFF_UP
	je xdp_do_redirect_down
	mov rdx, [rsi + OFF_xdp_buff_data_end]
	mov rsi, [rsi + OFF_xdp_buff_data]
	sub rdx, rsi
	movzx ecx, word ptr [rax + OFF_net_device_hard_header_len]
	add ecx, [rax + OFF_net_device_mtu]
	add ecx, CONST_VLAN_HLEN
	cmp rdx, rcx
	ja xdp_do_redirect_too_long
	jmp nic_xmit
xdp_do_redirect_no_device:
	mov eax, CONST_MINUS_EINVAL
	RET
xdp_do_redirect_no_xmit:
	mov eax, CONST_MINUS_EOPNOTSUPP
	RET
xdp_do_redirect_down:
	mov eax, CONST_MINUS_ENETDOWN
	RET
xdp_do_redirect_too_long:
	mov eax, CONST_MINUS_EMSGSIZE
	RET

# Through a map of devices: to the entry's device, or to all of them.
xdp_do_redirect_map:
	mov r8d, [rdx + OFF_bpf_redirect_info_flags]
	xor eax, eax
	mov [rdx + OFF_bpf_redirect_info_map_id], eax
	mov [rdx + OFF_bpf_redirect_info_map_type], eax
	mov [rdx + OFF_bpf_redirect_info_flags], eax
	cmp ecx, CONST_BPF_MAP_TYPE_DEVMAP
	je xdp_do_redirect_devmap
	cmp ecx, CONST_BPF_MAP_TYPE_DEVMAP_HASH
	je xdp_do_redirect_devmap
	mov eax, CONST_MINUS_EBADRQC
	RET
xdp_do_redirect_devmap:
	test r8d, CONST_BPF_F_BROADCAST
	jnz xdp_do_redirect_multi
	mov rax, [rdx + OFF_bpf_redirect_info_tgt_value]
	mov rax, [rax + OFF_bpf_dtab_netdev_dev]
	jmp xdp_do_redirect_device

# dev_map_enqueue_multi(): every device of the map that can take the frame, perhaps not the one that it came
# in by. rbx map, r12 frame, ebp the ifindex left out, r14 slot or bucket, r13 link to the next entry.
xdp_do_redirect_multi:
	push rbx
	push rbp
	push r12
	push r13
	push r14
	mov r12, rsi
	mov rbx, [rdx + OFF_bpf_redirect_info_map]
	mov qword ptr [rdx + OFF_bpf_redirect_info_map], 0
	xor ebp, ebp
	xor r14d, r14d
	test r8d, CONST_BPF_F_EXCLUDE_INGRESS
	jz xdp_do_redirect_multi_kind
	mov ebp, [rdi + OFF_net_device_ifindex]
xdp_do_redirect_multi_kind:
	cmp ecx, CONST_BPF_MAP_TYPE_DEVMAP_HASH
	je xdp_do_redirect_multi_bucket
xdp_do_redirect_multi_slot:
	cmp r14d, [rbx + OFF_bpf_map_max_entries]
	jae xdp_do_redirect_multi_done
	mov rax, [rbx + OFF_bpf_dtab_netdev_map]
	mov rax, [rax + r14*8]
	add r14d, 1
	test rax, rax
	jz xdp_do_redirect_multi_slot
	call xdp_do_redirect_multi_send
	jmp xdp_do_redirect_multi_slot
xdp_do_redirect_multi_bucket:
	cmp r14d, [rbx + OFF_bpf_dtab_n_buckets]
	jae xdp_do_redirect_multi_done
	mov rax, [rbx + OFF_bpf_dtab_dev_index_head]
	mov r13, [rax + r14*8]
	add r14d, 1
xdp_do_redirect_multi_chain:
	test r13, r13
	jz xdp_do_redirect_multi_bucket
	lea rax, [r13 - OFF_bpf_dtab_netdev_index_hlist]
	mov r13, [r13]
	call xdp_do_redirect_multi_send
	jmp xdp_do_redirect_multi_chain
xdp_do_redirect_multi_done:
	pop r14
	pop r13
	pop r12
	pop rbp
	pop rbx
	xor eax, eax
	RET
xdp_do_redirect_multi_send:
	mov rax, [rax + OFF_bpf_dtab_netdev_dev]
	cmp [rax + OFF_net_device_ifindex], ebp
	je xdp_do_redirect_multi_skip
	mov rsi, r12
	jmp xdp_do_redirect_device
xdp_do_redirect_multi_skip:
	RET
