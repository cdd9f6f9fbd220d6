# SPDX-License-Identifier: GPL-2.0-only
# Ways between the machine's Python side and emulated text. Everything is handed over in the mailbox,
# a block of kernel data at SYM_mailbox; MB_* are offsets into it. A `hlt` in here ends the CPU run.

# Call MB_TARGET(MB_ARG0..5) with the stack pointer MB_STACK; the result goes to MB_RESULT. The registers
# that belong to the interrupted code lie in one row under MB_SAVE, so that the machine can put them back
# when the call ends in an exception instead (sim/hardware/cpu.py names the order). They are not on the
# stack: all of it below MB_STACK is the callee's, all above may be a frame of the interpreter.
ENTRY(__call_from_model)
	movabs r11, SYM_mailbox
	mov rax, rsp
	mov rsp, [r11 + MB_SAVE]
	push rax
	push rbp
	push rbx
	push r12
	push r13
	push r14
	push r15
	mov rbx, rsp
	mov rsp, [r11 + MB_STACK]
	mov rdi, [r11 + MB_ARG0]
	mov rsi, [r11 + MB_ARG1]
	mov rdx, [r11 + MB_ARG2]
	mov rcx, [r11 + MB_ARG3]
	mov r8, [r11 + MB_ARG4]
	mov r9, [r11 + MB_ARG5]
	call qword ptr [r11 + MB_TARGET]
	mov rsp, rbx
	pop r15
	pop r14
	pop r13
	pop r12
	pop rbx
	pop rbp
	pop rsp
	movabs r11, SYM_mailbox
	mov [r11 + MB_RESULT], rax
	mov qword ptr [r11 + MB_REASON], REASON_RETURNED
	hlt

# What a stub hands over: the function's number (eax) and its arguments.
.macro save_call
	movabs r11, SYM_mailbox
	mov [r11 + MB_NUMBER], rax
	mov [r11 + MB_ARG0], rdi
	mov [r11 + MB_ARG1], rsi
	mov [r11 + MB_ARG2], rdx
	mov [r11 + MB_ARG3], rcx
	mov [r11 + MB_ARG4], r8
	mov [r11 + MB_ARG5], r9
.endm

# A leaf function in Python: the machine's hook sits on __leaf_point. eax is the function's number.
ENTRY(__leaf_trap)
	save_call
ENTRY_UNALIGNED(__leaf_point)
	nop
	mov rax, [r11 + MB_RESULT]
	RET

# A function in Python that may itself call emulated text: the run ends, and goes on at __leave_resume.
ENTRY(__leave_trap)
	save_call
	mov [r11 + MB_STACK], rsp
	mov qword ptr [r11 + MB_REASON], REASON_LEFT
	hlt
ENTRY(__leave_resume)
	movabs r11, SYM_mailbox
	mov rax, [r11 + MB_RESULT]
	RET

# To user space: MB_STACK points at the task's struct pt_regs, MB_CR3 is its address space.
ENTRY(ret_to_user)
	movabs r11, SYM_mailbox
	mov rax, [r11 + MB_CR3]
	mov rsp, [r11 + MB_STACK]
	mov cr3, rax
	swapgs
	jmp __pop_pt_regs

# Back to kernel text after an exception: MB_STACK points at a struct pt_regs.
ENTRY(ret_to_kernel)
	movabs r11, SYM_mailbox
	mov rsp, [r11 + MB_STACK]
ENTRY_UNALIGNED(__pop_pt_regs)
	pop r15
	pop r14
	pop r13
	pop r12
	pop rbp
	pop rbx
	pop r11
	pop r10
	pop r9
	pop r8
	pop rax
	pop rcx
	pop rdx
	pop rsi
	pop rdi
	add rsp, 8
	iretq

# The first instructions after power-on: real segment registers, then halt.
ENTRY(startup_64)
	push SEL_KERNEL_CS
	lea rax, [rip + __startup_cs]
	push rax
	retfq
ENTRY_UNALIGNED(__startup_cs)
	mov eax, SEL_KERNEL_DS
	mov ds, eax
	mov es, eax
	mov ss, eax
	hlt

# Indirect branches under the retpoline mitigation, and returns under the return-thunk mitigation.
ENTRY(__x86_return_thunk)
	ret
	int3

# The address that helper calls are relative to; never called (kernel/bpf/core.c).
ENTRY(__bpf_call_base)
	xor eax, eax
	RET

# void native_cpuid(u32 leaf, u32 subleaf, u32 out[4]): eax, ebx, ecx, edx as the CPU model has them.
ENTRY(native_cpuid)
	push rbx
	mov r8, rdx
	mov eax, edi
	mov ecx, esi
	cpuid
	mov [r8], eax
	mov [r8 + 4], ebx
	mov [r8 + 8], ecx
	mov [r8 + 12], edx
	pop rbx
	RET

# The first bytes of a callback call this while the interpreter runs its program: the return address, which
# tells the function, goes where a sixth argument would be, and the stack is as the callback's caller left it.
ENTRY(bpf_callback_thunk)
	pop r9
	jmp bpf_run_callback
