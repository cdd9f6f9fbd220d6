# SPDX-License-Identifier: GPL-2.0-only
# Number iterators: bpf_iter_num_new(), next() and destroy() (kernel/bpf/bpf_iter.c).

# rdi struct bpf_iter_num_kern, esi first, edx behind the last: 0, or an error and an empty iterator.
ENTRY(bpf_iter_num_new)
	mov eax, CONST_MINUS_EINVAL
	cmp esi, edx
	jg bpf_iter_num_destroy
	movsxd rcx, edx
	movsxd r8, esi
	sub rcx, r8
	mov eax, CONST_MINUS_E2BIG
	cmp rcx, CONST_BPF_MAX_LOOPS
	jg bpf_iter_num_destroy
	sub esi, 1
	mov [rdi + OFF_bpf_iter_num_kern_cur], esi
	mov [rdi + OFF_bpf_iter_num_kern_end], edx
	xor eax, eax
	RET

# rdi struct bpf_iter_num_kern: the address of the number, 0 at the end.
ENTRY(bpf_iter_num_next)
	mov ecx, [rdi + OFF_bpf_iter_num_kern_cur]
	add ecx, 1
	xor eax, eax
	cmp ecx, [rdi + OFF_bpf_iter_num_kern_end]
	jge bpf_iter_num_destroy
	mov [rdi + OFF_bpf_iter_num_kern_cur], ecx
	lea rax, [rdi + OFF_bpf_iter_num_kern_cur]
	RET

# rdi struct bpf_iter_num_kern; rax stays.
ENTRY(bpf_iter_num_destroy)
	xor ecx, ecx
	mov [rdi + OFF_bpf_iter_num_kern_cur], ecx
	mov [rdi + OFF_bpf_iter_num_kern_end], ecx
	RET
