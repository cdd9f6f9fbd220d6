# SPDX-License-Identifier: GPL-2.0-only
# Redirection: the helper notes the target in this CPU's bpf_redirect_info, the driver acts on it later.
.equ REDIRECT_XDP_ABORTED, 0
.equ REDIRECT_XDP_REDIRECT, 4
.equ REDIRECT_TC_ACT_SHOT, 2
.equ REDIRECT_TC_ACT_REDIRECT, 7
.equ REDIRECT_INGRESS, 1
.equ REDIRECT_MAP_TYPE_UNSPEC, 0
.equ REDIRECT_NO_MAP_ID, 0x7fffffff

# bpf_redirect() of XDP programs: edi interface, rsi flags (none is legal): an XDP verdict.
ENTRY(bpf_xdp_redirect)
	test rsi, rsi
	jnz bpf_xdp_redirect_aborted
	mov rax, SYM_bpf_redirect_info
	mov edi, edi
	mov gs:[rax + OFF_bpf_redirect_info_tgt_index], rdi
	mov dword ptr gs:[rax + OFF_bpf_redirect_info_map_id], REDIRECT_NO_MAP_ID
	mov dword ptr gs:[rax + OFF_bpf_redirect_info_map_type], REDIRECT_MAP_TYPE_UNSPEC
	mov eax, REDIRECT_XDP_REDIRECT
	RET
bpf_xdp_redirect_aborted:
	mov eax, REDIRECT_XDP_ABORTED
	RET

# bpf_redirect() of tc programs: edi interface, rsi flags: a tc verdict.
ENTRY(bpf_redirect)
	test rsi, -1 - REDIRECT_INGRESS
	jnz bpf_redirect_shot
	mov rax, SYM_bpf_redirect_info
	mov edi, edi
	mov gs:[rax + OFF_bpf_redirect_info_tgt_index], rdi
	mov gs:[rax + OFF_bpf_redirect_info_flags], esi
	mov eax, REDIRECT_TC_ACT_REDIRECT
	RET
bpf_redirect_shot:
	mov eax, REDIRECT_TC_ACT_SHOT
	RET
