# SPDX-License-Identifier: GPL-2.0-only
"""Where a program is to be attached, and whether it may: check_attach_btf_id() of Linux 6.18 (since 5.5).

The kernel's BTF says which functions and tracepoints there are. What no BTF says stands in tables here: which
functions may have their result changed, which may never be traced, and the descriptions of iterators.
"""

from __future__ import annotations

import errno
from typing import Final

from kernel_model.btf.parse import Btf, BtfError, BtfType, Kind
from kernel_model.uapi.enums import bpf_attach_type as a
from kernel_model.uapi.enums import bpf_func_id as f
from kernel_model.uapi.enums import bpf_prog_type as t

from .btf_access import COMPOSITE, kind_text, skip_modifiers
from .btf_ctx import TRACE_PREFIX, AttachTarget
from .env import ENOTSUPP, Env, Reject
from .regs import PTR_MAYBE_NULL, PTR_TRUSTED

MAX_BPF_FUNC_ARGS: Final = 12
MAX_ERRNO: Final = 4095
_BY_BTF: Final = frozenset((t.BPF_PROG_TYPE_TRACING, t.BPF_PROG_TYPE_LSM, t.BPF_PROG_TYPE_EXT))
_ON_FUNCTIONS: Final = frozenset(
    (a.BPF_MODIFY_RETURN, a.BPF_LSM_MAC, a.BPF_LSM_CGROUP, a.BPF_TRACE_FENTRY, a.BPF_TRACE_FEXIT)
)
_MODIFIABLE: Final = frozenset(
    (
        "bpf_fentry_test1", "bpf_modify_return_test", "bpf_modify_return_test2", "bpf_rstat_flush",
        "update_socket_protocol",
    )
)  # fmt: skip
"""Functions registered for fmod_ret (register_btf_fmodret_id_set)."""
_MODIFIABLE_SLEEPABLE: Final = frozenset(("bpf_fentry_test1",))
_SECURITY: Final = "security_"
_DENIED: Final = frozenset(
    (
        "migrate_disable", "migrate_enable", "rcu_read_unlock_strict", "preempt_count_add",
        "preempt_count_sub", "__rcu_read_lock", "__rcu_read_unlock",
    )
)  # fmt: skip
"""btf_id_deny: tracing these would call itself."""
_NO_RETURN: Final = frozenset(
    (
        "__ia32_sys_exit", "__ia32_sys_exit_group", "__kunit_abort", "kunit_try_catch_throw",
        "__module_put_and_kthread_exit", "__x64_sys_exit", "__x64_sys_exit_group", "do_exit",
        "do_group_exit", "kthread_complete_and_exit", "kthread_exit", "make_task_dead",
    )
)  # fmt: skip
"""noreturn_deny (since 6.15)."""
_LSM: Final = "bpf_lsm_"
_LSM_BOOL: Final = frozenset(("bpf_lsm_audit_rule_known", "bpf_lsm_inode_xattr_skipcap"))
_LSM_DISABLED: Final = frozenset(
    (
        "bpf_lsm_vm_enough_memory", "bpf_lsm_inode_need_killpriv", "bpf_lsm_inode_getsecurity",
        "bpf_lsm_inode_listsecurity", "bpf_lsm_inode_copy_up_xattr", "bpf_lsm_getselfattr",
        "bpf_lsm_getprocattr", "bpf_lsm_setprocattr", "bpf_lsm_key_getsecurity", "bpf_lsm_audit_rule_match",
        "bpf_lsm_ismaclabel", "bpf_lsm_file_alloc_security",
    )
)  # fmt: skip
"""Hooks whose results programs could not give rightly (bpf_lsm_disabled_hooks, since 6.12)."""
_LSM_UNTRUSTED: Final = frozenset(
    (
        "bpf_lsm_bpf_map_free", "bpf_lsm_bpf_prog_free", "bpf_lsm_file_alloc_security",
        "bpf_lsm_file_free_security", "bpf_lsm_sk_alloc_security", "bpf_lsm_sk_free_security",
        "bpf_lsm_task_free",
    )
)  # fmt: skip
"""Hooks on objects that are being made or freed (untrusted_lsm_hooks)."""
_SLEEPABLE_NAMES: Final = """
    bpf bpf_map bpf_map_create bpf_map_free bpf_prog bpf_prog_load bpf_prog_free bpf_token_create
    bpf_token_free bpf_token_cmd bpf_token_capable bprm_check_security bprm_committed_creds
    bprm_committing_creds bprm_creds_for_exec bprm_creds_from_file capget capset cred_prepare
    file_ioctl file_lock file_open file_post_open file_receive inode_create inode_free_security
    inode_getattr inode_getxattr inode_init_security inode_link inode_listxattr inode_mkdir
    inode_mknod inode_need_killpriv inode_post_setxattr inode_post_removexattr inode_readlink
    inode_removexattr inode_rename inode_rmdir inode_setattr inode_setxattr inode_symlink
    inode_unlink inode_set_acl inode_remove_acl kernel_create_files_as kernel_load_data
    kernel_module_request kernel_read_file kernfs_init_security key_free key_permission mmap_file
    mmap_addr netlink_send path_notify release_secctx sb_alloc_security sb_eat_lsm_opts
    sb_kern_mount sb_mount sb_remount sb_set_mnt_opts sb_show_options sb_statfs sb_umount settime
    syslog socket_accept socket_bind socket_connect socket_create socket_getpeername
    socket_getpeersec_dgram socket_getsockname socket_getsockopt socket_listen socket_post_create
    socket_recvmsg socket_sendmsg socket_shutdown socket_socketpair task_alloc current_getsecid_subj
    task_getsecid_obj task_prctl task_setscheduler task_to_inode userns_create
"""
_LSM_SLEEPABLE: Final = frozenset(_LSM + name for name in _SLEEPABLE_NAMES.split())
"""Hooks that are called where sleeping is allowed (sleepable_lsm_hooks)."""
_ITER: Final = "bpf_iter_"
_TRUSTED_OR_NULL: Final = PTR_TRUSTED | PTR_MAYBE_NULL
_ITERATORS: Final[dict[str, tuple[tuple[int, int, str], ...]]] = {
    "bpf_map": ((8, _TRUSTED_OR_NULL, "bpf_map"),),
    "bpf_prog": ((8, _TRUSTED_OR_NULL, "bpf_prog"),),
    "bpf_link": ((8, _TRUSTED_OR_NULL, "bpf_link"),),
    "task": ((8, _TRUSTED_OR_NULL, "task_struct"),),
    "task_file": ((8, PTR_MAYBE_NULL, "task_struct"), (24, PTR_MAYBE_NULL, "file")),
    "task_vma": ((8, PTR_MAYBE_NULL, "task_struct"), (16, PTR_MAYBE_NULL, "vm_area_struct")),
    "cgroup": ((8, _TRUSTED_OR_NULL, "cgroup"),),
    "kmem_cache": ((8, _TRUSTED_OR_NULL, "kmem_cache"),),
    "dmabuf": ((8, _TRUSTED_OR_NULL, "dma_buf"),),
    "ksym": ((8, PTR_MAYBE_NULL, "kallsym_iter"),),
    "tcp": ((8, _TRUSTED_OR_NULL, "sock_common"),),
    "udp": ((8, _TRUSTED_OR_NULL, "udp_sock"),),
    "unix": ((8, _TRUSTED_OR_NULL, "unix_sock"),),
    "netlink": ((8, PTR_MAYBE_NULL, "netlink_sock"),),
    "ipv6_route": ((8, PTR_MAYBE_NULL, "fib6_info"),),
}
"""Arguments of iterators that may be NULL at the end of a walk (bpf_iter_reg.ctx_arg_info)."""
_BUFFER_ITERATORS: Final = frozenset(("bpf_map_elem", "bpf_sk_storage_map", "sockmap"))
"""Iterators whose arguments are buffers of a map's key and value."""


_TRAMPOLINED: Final = frozenset((a.BPF_TRACE_FENTRY, a.BPF_TRACE_FEXIT, a.BPF_MODIFY_RETURN, a.BPF_LSM_MAC))
_TRAMPOLINE_HELPERS: Final = frozenset(
    (f.BPF_FUNC_get_func_arg, f.BPF_FUNC_get_func_ret, f.BPF_FUNC_get_func_arg_cnt)
)
_D_PATH: Final = frozenset(
    (
        "security_file_permission", "security_inode_getattr", "security_file_open", "security_path_truncate",
        "vfs_truncate", "vfs_fallocate", "dentry_open", "vfs_getattr", "filp_close",
    )
)  # fmt: skip
"""Functions that hold nothing which bpf_d_path() takes (btf_allowlist_d_path)."""


def has_helper(env: Env, func_id: int) -> bool:
    """Whether the program's target has what the helper reads (bpf_prog_has_trampoline)."""
    return func_id not in _TRAMPOLINE_HELPERS or env.spec.expected_attach_type in _TRAMPOLINED


def check_allowed(env: Env, func_id: int) -> None:
    """Some helpers may be called on some functions only (bpf_func_proto.allowed)."""
    if func_id != f.BPF_FUNC_d_path or env.attach is None:
        return
    if env.spec.expected_attach_type == a.BPF_TRACE_ITER:
        return
    names = _LSM_SLEEPABLE if env.type.number == t.BPF_PROG_TYPE_LSM else _D_PATH
    if env.attach.name not in names:
        raise env.reject(errno.EINVAL, "helper call is not allowed in probe\n")


def _find(env: Env) -> tuple[Btf, BtfType]:
    """The type that the program names; Reject(EINVAL) when it is none or has no name."""
    number = env.spec.attach_btf_id
    if not number:
        raise env.reject(errno.EINVAL, "Tracing programs must provide btf_id\n")
    btf = env.kernel.vmlinux()
    try:
        found = btf.type(number)
    except BtfError:
        raise env.reject(errno.EINVAL, f"attach_btf_id {number} is invalid\n") from None
    return btf, found


def _proto(btf: Btf, type_id: int) -> BtfType:
    proto = btf.type(type_id)
    if proto.kind is not Kind.FUNC_PROTO:
        raise Reject(errno.EINVAL)
    return proto


def _size(btf: Btf, type_id: int) -> tuple[int, BtfType]:
    """Bytes in registers (0 for void, -1 for what cannot be passed), and the bare type."""
    found = skip_modifiers(btf, type_id)
    if found.kind is Kind.VOID:
        return 0, found
    if found.kind is Kind.PTR:
        return 8, found
    if found.kind in (Kind.INT, Kind.ENUM, Kind.ENUM64) or found.kind in COMPOSITE:
        return found.size, found
    return -1, found


def _check_proto(env: Env, btf: Btf, name: str, proto: BtfType) -> None:
    """A trampoline can call with these arguments (btf_distill_func_proto)."""
    params = proto.params
    if len(params) > MAX_BPF_FUNC_ARGS:
        raise env.reject(errno.EINVAL, f"The function {name} has {len(params)} arguments. Too many.\n")
    size, found = _size(btf, proto.type)
    if size < 0 or found.kind in COMPOSITE:
        raise env.reject(
            errno.EINVAL, f"The function {name} return type {kind_text(found)} is unsupported.\n"
        )
    for number, param in enumerate(params):
        if number == len(params) - 1 and not param.type:
            raise env.reject(errno.EINVAL, f"The function {name} with variable args is unsupported.\n")
        size, found = _size(btf, param.type)
        if not 0 <= size <= 16:
            raise env.reject(
                errno.EINVAL, f"The function {name} arg{number} type {kind_text(found)} is unsupported.\n"
            )
        if not size:
            raise env.reject(errno.EINVAL, f"The function {name} has malformed void argument.\n")


def _raw_tracepoint(env: Env, btf: Btf, found: BtfType) -> AttachTarget:
    number = env.spec.attach_btf_id
    if found.kind is not Kind.TYPEDEF:
        raise env.reject(errno.EINVAL, f"attach_btf_id {number} is not a typedef\n")
    if not found.name.startswith(TRACE_PREFIX):
        raise env.reject(errno.EINVAL, f"attach_btf_id {number} points to wrong type name {found.name}\n")
    name = found.name.removeprefix(TRACE_PREFIX)
    target = btf.type(found.type)
    if target.kind is not Kind.PTR:
        raise Reject(errno.EINVAL)
    proto = _proto(btf, target.type)
    # Only the function that serves the tracepoint has names for its parameters.
    template = btf.find(f"__bpf_trace_{name}", Kind.FUNC)
    if template:
        proto = _proto(btf, btf.type(template).type)
    return AttachTarget(btf, number, name, proto, skipped=1, trusted=True)


def _function(env: Env, btf: Btf, found: BtfType) -> BtfType:
    if found.kind is not Kind.FUNC:
        raise env.reject(errno.EINVAL, f"attach_btf_id {env.spec.attach_btf_id} is not a function\n")
    proto = _proto(btf, found.type)
    _check_proto(env, btf, found.name, proto)
    return proto


def _iterator(env: Env, btf: Btf, found: BtfType) -> AttachTarget:
    proto = _function(env, btf, found)
    name = found.name.removeprefix(_ITER)
    if name == found.name:
        raise Reject(errno.EINVAL)
    if name in _BUFFER_ITERATORS:
        raise env.not_modelled(f"iterators over {name}")
    if name not in _ITERATORS:
        raise Reject(errno.EINVAL)
    return AttachTarget(
        btf, found.id, found.name, proto, trusted=True, returns=(0, 1), arg_flags=_ITERATORS[name]
    )


def _may_sleep(env: Env, name: str) -> bool:
    if env.type.number == t.BPF_PROG_TYPE_TRACING:
        return name in _MODIFIABLE_SLEEPABLE
    return env.type.number == t.BPF_PROG_TYPE_LSM and name in _LSM_SLEEPABLE


def _check_lsm(env: Env, name: str) -> None:
    """bpf_lsm_verify_prog()."""
    number = env.spec.attach_btf_id
    if not env.spec.gpl_compatible:
        raise env.reject(errno.EINVAL, "LSM programs must have a GPL compatible license\n")
    if name in _LSM_DISABLED:
        raise env.reject(errno.EINVAL, f"attach_btf_id {number} points to disabled hook {name}\n")
    if not name.startswith(_LSM):
        raise env.reject(errno.EINVAL, f"attach_btf_id {number} points to wrong type name {name}\n")


def _lsm(btf: Btf, found: BtfType, proto: BtfType) -> AttachTarget:
    limits = None
    if skip_modifiers(btf, proto.type).kind is not Kind.VOID:
        limits = (0, 1) if found.name in _LSM_BOOL else (-MAX_ERRNO, 0)
    trusted = found.name not in _LSM_UNTRUSTED
    return AttachTarget(btf, found.id, found.name, proto, trusted=trusted, returns=limits)


def _on_function(env: Env, btf: Btf, found: BtfType) -> AttachTarget:
    proto = _function(env, btf, found)
    name, kind = found.name, env.spec.expected_attach_type
    if env.sleepable:
        if not _may_sleep(env, name):
            raise env.reject(errno.EINVAL, f"{name} is not sleepable\n")
    elif kind == a.BPF_MODIFY_RETURN and name not in _MODIFIABLE and not name.startswith(_SECURITY):
        raise env.reject(errno.EINVAL, f"{name}() is not modifiable\n")
    if env.type.number == t.BPF_PROG_TYPE_LSM:
        _check_lsm(env, name)
        return _lsm(btf, found, proto)
    if name in _DENIED:
        raise env.reject(errno.EINVAL, f"Attaching tracing programs to function '{name}' is rejected.\n")
    if kind in (a.BPF_TRACE_FEXIT, a.BPF_MODIFY_RETURN) and name in _NO_RETURN:
        raise env.reject(
            errno.EINVAL, f"Attaching fexit/fmod_ret to __noreturn function '{name}' is rejected.\n"
        )
    return AttachTarget(btf, found.id, name, proto)


def check_attach_btf_id(env: Env) -> None:
    """Find the program's target and see that it may be attached there; sets ``env.attach``."""
    if env.sleepable and not _can_be_sleepable(env):
        raise env.reject(
            errno.EINVAL,
            "Only fentry/fexit/fmod_ret, lsm, iter, uprobe, and struct_ops programs can be sleepable\n",
        )
    if env.type.number not in _BY_BTF:
        return
    if env.spec.attach_to_program:
        if not env.spec.attach_btf_id:
            raise env.reject(errno.EINVAL, "Tracing programs must provide btf_id\n")
        raise env.not_modelled("programs attached to programs", ENOTSUPP)
    btf, found = _find(env)
    if env.type.number == t.BPF_PROG_TYPE_EXT:
        raise env.reject(errno.EINVAL, "Cannot replace kernel functions\n")
    kind = env.spec.expected_attach_type
    if kind == a.BPF_TRACE_RAW_TP:
        env.attach = _raw_tracepoint(env, btf, found)
    elif kind == a.BPF_TRACE_ITER:
        env.attach = _iterator(env, btf, found)
    elif kind in _ON_FUNCTIONS:
        env.attach = _on_function(env, btf, found)
    else:
        raise Reject(errno.EINVAL)


def _can_be_sleepable(env: Env) -> bool:
    if env.type.number == t.BPF_PROG_TYPE_TRACING:
        return env.spec.expected_attach_type in (
            a.BPF_TRACE_FENTRY, a.BPF_TRACE_FEXIT, a.BPF_MODIFY_RETURN, a.BPF_TRACE_ITER,
        )  # fmt: skip
    return env.type.can_sleep


def return_range(env: Env) -> tuple[int, int] | None:
    """The results that the program may end with; None for any. Reject(ENOTSUPP) for unknown targets."""
    target = env.attach
    if target is None:
        return None
    kind = env.spec.expected_attach_type
    if env.type.number == t.BPF_PROG_TYPE_LSM:
        return target.returns
    if kind in (a.BPF_TRACE_FENTRY, a.BPF_TRACE_FEXIT):
        return 0, 0
    return target.returns


def returns_nothing(env: Env) -> bool:
    """The hook is a void function, so nobody looks at the program's result."""
    target = env.attach
    return (
        target is not None
        and env.type.number == t.BPF_PROG_TYPE_LSM
        and env.spec.expected_attach_type != a.BPF_LSM_CGROUP
        and not target.proto.type
    )
