# SPDX-License-Identifier: GPL-2.0-only
"""The verifier's working data: the program being checked, notes on its instructions, and its functions.

Errors travel as :class:`Reject` with Linux's errno; the words went to the log before.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from kernel_model.isa.disasm import line as disasm_line
from kernel_model.isa.insn import Insn
from kernel_model.isa.native import PokeSite
from kernel_model.isa.opcodes import BPF_PSEUDO_KFUNC_CALL
from kernel_model.uapi.enums import ProgFlags, bpf_func_id

from .api import Environment, FuncInfo, LineInfo, MapView, ProgramSpec, Stats
from .log import VerifierLog
from .state import FuncState, VerifierState

if TYPE_CHECKING:
    from kernel_model.hooks.progtypes import ProgType

    from .btf_ctx import AttachTarget
    from .kfuncs import KfuncDesc
    from .liveness import StackLiveness
    from .pruning import SccVisit
    from .regs import Reg

BPF_COMPLEXITY_LIMIT_INSNS: Final = 1_000_000
BPF_COMPLEXITY_LIMIT_JMP_SEQ: Final = 8192
BPF_COMPLEXITY_LIMIT_STATES: Final = 64
BPF_MAX_SUBPROGS: Final = 256
MAX_BPF_STACK: Final = 512
NO_FASTCALL_STACK: Final = -(1 << 15)
ENOTSUPP: Final = 524

_FUNC_NAMES: Final = {int(member): member.name.removeprefix("BPF_FUNC_") for member in bpf_func_id}


class Reject(Exception):
    """Verification fails with ``errno``; ``not_modelled`` names a feature that only the simulator lacks."""

    def __init__(self, errno: int, not_modelled: str = "") -> None:
        super().__init__(errno, not_modelled)
        self.errno = errno
        self.not_modelled = not_modelled


class InsnAux:
    """Notes on one instruction (struct bpf_insn_aux_data), made by one phase and read by a later one."""

    __slots__ = (
        "alu_limit",
        "alu_state",
        "calls_callback",
        "constant",
        "ctx_field_size",
        "fastcall_pattern",
        "fastcall_spills_num",
        "force_checkpoint",
        "is_iter_next",
        "jmp_point",
        "live_regs_before",
        "loop_fit_for_inline",
        "loop_initialized",
        "loop_subprogno",
        "map",
        "map_index",
        "map_key",
        "map_key_poisoned",
        "map_off",
        "map_poisoned",
        "map_unpriv",
        "nospec",
        "nospec_result",
        "orig_idx",
        "prune_point",
        "ptr_type",
        "scc",
        "seen",
        "zext_dst",
    )

    def __init__(self, orig_idx: int) -> None:
        self.orig_idx = orig_idx
        self.seen = 0
        self.prune_point = False
        self.jmp_point = False
        self.force_checkpoint = False
        self.calls_callback = False
        self.is_iter_next = False
        self.live_regs_before = 0
        self.scc = 0
        self.ptr_type = 0
        self.ctx_field_size = 0
        self.map_index = -1
        self.map_off = 0
        self.map: MapView | None = None
        self.map_poisoned = False
        self.map_unpriv = False
        self.map_key = -1
        self.map_key_poisoned = False
        self.alu_state = 0
        self.alu_limit = 0
        self.nospec = False
        self.nospec_result = False
        self.zext_dst = False
        self.constant: Reg | None = None
        """What a constant that names a variable of the kernel stands for."""
        self.fastcall_pattern = False
        self.fastcall_spills_num = 0
        self.loop_initialized = False
        self.loop_fit_for_inline = False
        self.loop_subprogno = 0


class SubprogInfo:
    """One function of the program (struct bpf_subprog_info); ``args`` is filled from BTF on demand."""

    __slots__ = (
        "args",
        "called",
        "changes_pkt_data",
        "fastcall_stack_off",
        "has_ld_abs",
        "has_tail_call",
        "is_async_cb",
        "is_cb",
        "keep_fastcall_stack",
        "linkage",
        "might_sleep",
        "name",
        "postorder_start",
        "priv_stack",
        "stack_depth",
        "stack_extra",
        "start",
        "tail_call_reachable",
        "unreliable",
        "verified",
    )

    def __init__(self, start: int) -> None:
        self.start = start
        self.stack_depth = 0
        self.stack_extra = 0
        self.priv_stack = False
        self.has_tail_call = False
        self.tail_call_reachable = False
        self.has_ld_abs = False
        self.is_cb = False
        self.is_async_cb = False
        self.changes_pkt_data = False
        self.might_sleep = False
        self.fastcall_stack_off = 0
        self.keep_fastcall_stack = False
        self.postorder_start = 0
        self.linkage = -1
        self.name = ""
        self.unreliable = False
        self.called = False
        self.verified = False
        self.args: list[tuple[str, int]] | None = None


class Pending:
    """A path to be followed later (struct bpf_verifier_stack_elem)."""

    __slots__ = ("insn_idx", "log_pos", "prev_insn_idx", "state")

    def __init__(self, state: VerifierState, insn_idx: int, prev_insn_idx: int, log_pos: int) -> None:
        self.state = state
        self.insn_idx = insn_idx
        self.prev_insn_idx = prev_insn_idx
        self.log_pos = log_pos


class Env:
    """All data of one run of the verifier (struct bpf_verifier_env)."""

    def __init__(self, spec: ProgramSpec, kernel: Environment, prog_type: ProgType, log: VerifierLog) -> None:
        self.spec = spec
        self.kernel = kernel
        self.observer = kernel.observer
        self.type = prog_type
        self.log = log
        self.insns: list[Insn] = list(spec.insns)
        self.aux = [InsnAux(i) for i in range(len(self.insns))]
        self.subprogs: list[SubprogInfo] = []
        """In order of their start; a fake one behind the last instruction closes the list."""
        priv = spec.privileges
        self.bpf_capable = priv.bpf or priv.sys_admin
        perfmon = priv.perfmon or priv.sys_admin
        self.allow_ptr_leaks = perfmon
        self.allow_uninit_stack = perfmon
        self.bypass_spec_v1 = perfmon
        self.bypass_spec_v4 = perfmon
        flags = spec.flags
        self.strict_alignment = bool(flags & ProgFlags.BPF_F_STRICT_ALIGNMENT) and not (
            flags & ProgFlags.BPF_F_ANY_ALIGNMENT
        )
        self.test_state_freq = self.bpf_capable and bool(flags & ProgFlags.BPF_F_TEST_STATE_FREQ)
        self.test_reg_invariants = self.bpf_capable and bool(flags & ProgFlags.BPF_F_TEST_REG_INVARIANTS)
        self.sleepable = bool(flags & ProgFlags.BPF_F_SLEEPABLE)
        self.used_maps: list[MapView] = []
        self.kfuncs: dict[int, KfuncDesc] = {}
        """Kernel functions that the program calls, by BTF id."""
        self.func_info: list[FuncInfo] = []
        self.line_info: list[LineInfo] = []
        self.postorder: list[int] = []
        self.follow: list[list[int]] = []
        """The slots that may follow each one within its function."""
        self.scc_cnt = 1

        self.cur = VerifierState()
        self.insn_idx = 0
        self.prev_insn_idx = -1
        self.have_hist = False
        """The last entry of the running state's history belongs to the instruction being checked."""
        self.pending: list[Pending] = []
        self.id_gen = 0
        self.explored: list[list[VerifierState]] = []
        self.scc_visits: dict[tuple[tuple[int, ...], int], SccVisit] = {}
        self.num_backedges = 0
        self.explored_size = 0
        self.free_list_size = 0
        self.insn_processed = 0
        self.prev_insn_processed = 0
        self.jmps_processed = 0
        self.prev_jmps_processed = 0
        self.pass_cnt = 0
        self.explore_alu_limits = False
        self.stats = Stats(per_insn=[0] * len(self.insns))
        self.liveness: StackLiveness
        self.bt_regs: list[int] = [0] * 8
        self.bt_slots: list[int] = [0] * 8
        self.bt_frame = 0
        self.back_skips: list[int] = []

        self.scratched_regs = 0
        self.scratched_slots = 0
        self.prev_log_pos = 0
        self.prev_insn_print_pos = 0
        self.prev_linfo: LineInfo | None = None
        self.last_message = ""
        self.seen_direct_write = False
        self.max_pkt_offset = 0
        self.max_ctx_offset = 0
        self.max_tp_access = 0
        self.prog_flags: dict[str, bool] = {}
        self.attach: AttachTarget | None = None
        """What the program is to be attached to, when its type is for functions of the kernel."""
        self.pokes: list[PokeSite] = []
        self.tracks_subreg = False
        self.do_print_state = False
        self.detailed = log.detailed
        self.every_path = log.every_path

    # ---- the log ---------------------------------------------------------------------------

    def verbose(self, text: str) -> None:
        """Write to the log; the last words before a rejection become its reason."""
        if text != "\n":
            self.last_message = text
        self.log.write(text)

    def bug(self, text: str) -> None:
        """The kernel's note about a state that its authors hold impossible."""
        self.verbose(f"verifier bug: {text}\n")

    def reject(self, err: int, text: str) -> Reject:
        """Log ``text`` and make the exception to raise."""
        self.verbose(text)
        return Reject(err)

    def not_modelled(self, feature: str, err: int = errno.EINVAL) -> Reject:
        """The rejection of something that Linux has and the simulator has not."""
        self.verbose(f"not modelled by this simulator: {feature}\n")
        return Reject(err, feature)

    def insn_text(self, index: int) -> str:
        """The instruction as the log shows it, without newline."""
        return disasm_line(self.insns, index, self.call_name, allow_ptr_leaks=self.allow_ptr_leaks)

    def call_name(self, insn: Insn) -> str | None:
        """The name of the helper or kernel function that an instruction calls; None when it has none."""
        if insn.src != BPF_PSEUDO_KFUNC_CALL:
            return helper_name(insn)
        desc = self.kfuncs.get(insn.imm)
        if desc is None:
            # The name of type 0, void.
            return None if insn.imm else ""
        return desc.name

    # ---- looking up ------------------------------------------------------------------------

    @property
    def frame(self) -> FuncState:
        return self.cur.frames[-1]

    def new_id(self) -> int:
        """A fresh id to tie registers together."""
        self.id_gen += 1
        return self.id_gen

    def containing_subprog(self, off: int) -> int:
        """The number of the function that slot ``off`` belongs to."""
        low, high = 0, len(self.subprogs) - 2
        while low < high:
            middle = low + (high - low + 1) // 2
            if self.subprogs[middle].start <= off:
                low = middle
            else:
                high = middle - 1
        return low

    def find_subprog(self, off: int) -> int:
        """The number of the function that starts at slot ``off``; -1 when none does."""
        if not 0 <= off < len(self.insns):
            return -1
        found = self.containing_subprog(off)
        return found if self.subprogs[found].start == off else -1

    @property
    def subprog_cnt(self) -> int:
        return len(self.subprogs) - 1

    def iter_name(self, btf_id: int) -> str:
        """``num`` for the kernel's struct bpf_iter_num."""
        return self.kernel.vmlinux().type(btf_id).name.removeprefix("bpf_iter_")

    def is_global(self, subprog: int) -> bool:
        """The function has global linkage by its BTF."""
        return self.subprogs[subprog].linkage == 1


def helper_name(insn: Insn) -> str | None:
    """``bpf_map_lookup_elem`` for a helper call; None for other calls and unknown numbers."""
    if insn.src:
        return None
    name = _FUNC_NAMES.get(insn.imm)
    return f"bpf_{name}" if name else None


def func_id_name(func_id: int) -> str:
    """The helper's name as messages print it; ``unknown`` for no helper."""
    name = _FUNC_NAMES.get(func_id)
    return f"bpf_{name}" if name else "unknown"
