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
bpf_redirect_shot:
	mov eax, CONST_TC_ACT_SHOT
	RET
