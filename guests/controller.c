// SPDX-License-Identifier: GPL-2.0-only
/*
 * A ring-3 program without libc: creates an array map, loads a small XDP program that counts in it,
 * test-runs the program and reads the count back. Exit status 0 when everything came out as expected,
 * 1 when a result differs, 2 when a system call failed; fd 1 tells what happened.
 */
#include "bpf_guest.h"
#include "bpf_insn.h"

enum { SYS_write = 1, SYS_close = 3, SYS_exit_group = 231, SYS_bpf = 321 };
enum { MAP_CREATE = 0, MAP_LOOKUP_ELEM = 1, PROG_LOAD = 5, PROG_TEST_RUN = 10 };
enum { PROG_TYPE_XDP = 6 };

#define RUNS 5

/* The parts of union bpf_attr that are used here. */
union bpf_attr {
	struct {
		__u32 map_type, key_size, value_size, max_entries, map_flags, inner_map_fd, numa_node;
		char map_name[16];
	};
	struct {
		__u32 map_fd;
		__u64 key, value, flags;
	};
	struct {
		__u32 prog_type, insn_cnt;
		__u64 insns, license;
		__u32 log_level, log_size;
		__u64 log_buf;
		__u32 kern_version, prog_flags;
		char prog_name[16];
	};
	struct {
		__u32 prog_fd, retval, data_size_in, data_size_out;
		__u64 data_in, data_out;
		__u32 repeat, duration;
	} test;
};

static long syscall3(long number, long a, long b, long c)
{
	long result;

	asm volatile("syscall"
		     : "=a"(result)
		     : "a"(number), "D"(a), "S"(b), "d"(c)
		     : "rcx", "r11", "memory");
	return result;
}

static long bpf(int command, union bpf_attr *attr)
{
	return syscall3(SYS_bpf, command, (long)attr, sizeof(*attr));
}

static void clear(void *memory, unsigned long size)
{
	for (unsigned char *byte = memory; size; size--)
		*byte++ = 0;
	/* Keeps the compiler from turning the loop into a call of memset. */
	asm volatile("" ::: "memory");
}

static void copy_name(char *to, const char *from)
{
	while ((*to++ = *from++))
		asm volatile("" ::: "memory");
}

static void print(const char *text)
{
	unsigned long length = 0;

	while (text[length])
		length++;
	syscall3(SYS_write, 1, (long)text, length);
}

static void print_number(long value)
{
	char digits[24], *at = digits + sizeof(digits);
	unsigned long rest = value < 0 ? -(unsigned long)value : (unsigned long)value;

	*--at = 0;
	do {
		*--at = '0' + rest % 10;
		rest /= 10;
	} while (rest);
	if (value < 0)
		*--at = '-';
	print(at);
}

__attribute__((noreturn)) static void leave(int status)
{
	for (;;)
		syscall3(SYS_exit_group, status, 0, 0);
}

static long must(const char *what, long result)
{
	if (result >= 0)
		return result;
	print("controller: ");
	print(what);
	print(" failed: ");
	print_number(result);
	print("\n");
	leave(2);
}

static int create_map(void)
{
	union bpf_attr attr;

	clear(&attr, sizeof(attr));
	attr.map_type = BPF_MAP_TYPE_ARRAY;
	attr.key_size = sizeof(__u32);
	attr.value_size = sizeof(__u64);
	attr.max_entries = 4;
	copy_name(attr.map_name, "counts");
	return must("BPF_MAP_CREATE", bpf(MAP_CREATE, &attr));
}

/* counts[1] += 1; return XDP_PASS */
static int load_program(int map)
{
	struct bpf_insn insns[] = {
		BPF_ST_MEM(BPF_W, BPF_REG_10, -4, 1),
		BPF_MOV64_REG(BPF_REG_2, BPF_REG_10),
		BPF_ALU64_IMM(BPF_ADD, BPF_REG_2, -4),
		BPF_LD_MAP_FD(BPF_REG_1, map),
		BPF_RAW_INSN(BPF_JMP | BPF_CALL, 0, 0, 0, 1 /* bpf_map_lookup_elem */),
		BPF_JMP_IMM(BPF_JEQ, BPF_REG_0, 0, 2),
		BPF_MOV64_IMM(BPF_REG_1, 1),
		BPF_ATOMIC_OP(BPF_DW, BPF_ADD, BPF_REG_0, BPF_REG_1, 0),
		BPF_MOV64_IMM(BPF_REG_0, XDP_PASS),
		BPF_EXIT_INSN(),
	};
	static const char license[] = "GPL";
	union bpf_attr attr;

	clear(&attr, sizeof(attr));
	attr.prog_type = PROG_TYPE_XDP;
	attr.insn_cnt = sizeof(insns) / sizeof(insns[0]);
	attr.insns = (__u64)insns;
	attr.license = (__u64)license;
	copy_name(attr.prog_name, "count");
	return must("BPF_PROG_LOAD", bpf(PROG_LOAD, &attr));
}

static __u32 run(int program)
{
	unsigned char frame[64];
	union bpf_attr attr;

	clear(frame, sizeof(frame));
	clear(&attr, sizeof(attr));
	attr.test.prog_fd = program;
	attr.test.data_in = (__u64)frame;
	attr.test.data_size_in = sizeof(frame);
	attr.test.repeat = RUNS;
	must("BPF_PROG_TEST_RUN", bpf(PROG_TEST_RUN, &attr));
	return attr.test.retval;
}

static __u64 read_count(int map)
{
	union bpf_attr attr;
	__u32 key = 1;
	__u64 value = 0;

	clear(&attr, sizeof(attr));
	attr.map_fd = map;
	attr.key = (__u64)&key;
	attr.value = (__u64)&value;
	must("BPF_MAP_LOOKUP_ELEM", bpf(MAP_LOOKUP_ELEM, &attr));
	return value;
}

__attribute__((noreturn, used)) static void controller(void)
{
	int map = create_map();
	int program = load_program(map);
	__u32 verdict = run(program);
	__u64 count = read_count(map);

	print("controller: verdict ");
	print_number(verdict);
	print(", counts[1] = ");
	print_number(count);
	print("\n");
	must("close", syscall3(SYS_close, program, 0, 0));
	must("close", syscall3(SYS_close, map, 0, 0));
	leave(verdict == XDP_PASS && count == RUNS ? 0 : 1);
}

/* The kernel enters here with the stack pointer at argc, not as a call would. */
asm(".globl _start\n"
    "_start:\n"
    "	xorl %ebp, %ebp\n"
    "	andq $-16, %rsp\n"
    "	call controller\n");
