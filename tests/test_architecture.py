# SPDX-License-Identifier: GPL-2.0-only
"""Who may import whom, and the contract that other programs rely on."""

from __future__ import annotations

import ast
import functools
import inspect
import re
from collections import Counter
from pathlib import Path

import pytest

import sim.machine
import sim.process
from sim import GuestFault, Machine, Process, Snapshot
from sim.machine import Config

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("sim", "kernel_model", "jit_x86")
LARGEST = 800


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


ALL = [path for package in PACKAGES for path in modules(package)]


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@functools.cache
def imports(path: Path) -> tuple[str, ...]:
    """Every module that a file names, as an absolute dotted name; inside functions and TYPE_CHECKING, too."""
    here = path.relative_to(ROOT).with_suffix("").parts
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level] if node.level else ()
            stem = ".".join((*base, *(node.module or "").split("."))).strip(".")
            found += [stem, *(f"{stem}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            found += [str(arg.value) for arg in node.args[:1] if isinstance(arg, ast.Constant)]
    return tuple(found)


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def offenders(paths: list[Path], forbidden: tuple[str, ...], allowed: tuple[str, ...] = ()) -> list[str]:
    return [
        f"{relative(path)} imports {module}"
        for path in paths
        for module in imports(path)
        if any(within(module, each) for each in forbidden)
        and not any(within(module, each) or within(each, module) for each in allowed)
    ]


ENGINES = ("unicorn", "keystone", "elftools", "capstone", "dpkt")


def test_the_kernel_knows_no_machine_and_no_assembler() -> None:
    assert offenders(modules("kernel_model"), ("sim", "jit_x86", *ENGINES)) == []


def test_the_jit_knows_the_contract_alone() -> None:
    allowed = ("kernel_model.isa", "kernel_model.errors")
    assert offenders(modules("jit_x86"), ("sim", "kernel_model"), allowed) == []


@pytest.mark.parametrize(
    ("engine", "home"),
    [("unicorn", "sim/hardware/"), ("keystone", "jit_x86/"), ("elftools", "sim/userspace/")],
)
def test_each_engine_has_one_home(engine: str, home: str) -> None:
    users = {relative(path) for path in ALL for module in imports(path) if within(module, engine)}
    assert users
    assert [user for user in users if not user.startswith(home)] == []


def test_the_wiring_is_in_one_place() -> None:
    """Only the machine module brings kernel, JIT and hardware together."""
    assert offenders(modules("sim/hardware"), ("jit_x86", "sim.machine", "sim.exec", "sim.process")) == []
    wired = {
        relative(path)
        for path in modules("sim")
        for module in imports(path)
        if within(module, "sim.hardware.unicorn_api")
    }
    assert [path for path in wired if not path.startswith("sim/hardware/")] == []


def test_imports_are_read_as_python_reads_them() -> None:
    """The checks above can fail: a relative import and one inside a function are found."""
    named = set(imports(ROOT / "sim/machine.py"))
    assert {"jit_x86.Compiler", "sim.hardware.cpu.Cpu", "kernel_model.boot"} <= named
    assert "kernel_model.verifier.main.bpf_check" in set(imports(ROOT / "kernel_model/verifier/api.py"))


def test_test_modules_have_one_name_each() -> None:
    """pytest imports them by their bare names."""
    names = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []


@pytest.mark.parametrize("path", ALL, ids=relative)
def test_modules(path: Path) -> None:
    """License, docstring, size."""
    text = path.read_text()
    if not text:
        assert path.name == "__init__.py"
        return
    assert text.startswith("# SPDX-License-Identifier: GPL-2.0-only\n")
    assert ast.get_docstring(ast.parse(text)), "a docstring says what the module is for"
    assert text.count("\n") < LARGEST


def test_results_depend_on_nothing_outside() -> None:
    """No wall time and no host randomness in the kernel and the JIT; in the machine, only where named."""
    clocks = re.compile(
        r"\btime\.(time|monotonic|perf_counter)|\bdatetime\b|\burandom\b|\bsecrets\b|\buuid\b"
    )
    users = {
        relative(path)
        for path in [*modules("kernel_model"), *modules("jit_x86"), *modules("sim/hardware")]
        if clocks.search(path.read_text())
    }
    assert users == set()


# The contract (docs/architecture.md).


def parameters(function: object) -> dict[str, object]:
    assert callable(function)
    found = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in found if p.name != "self"}


EMPTY = inspect.Parameter.empty


def test_signatures_that_others_rely_on() -> None:
    boot = parameters(Machine.boot)
    assert list(boot.items())[:3] == [("seed", 0), ("cpus", 1), ("jit", True)]
    assert all(default is not EMPTY for default in boot.values())
    process = parameters(Machine.process)
    assert next(iter(process.items())) == ("uid", 0)
    assert list(parameters(Process.alloc)) == ["size"]
    assert list(parameters(Process.read)) == ["addr", "size"]
    assert list(parameters(Process.write)) == ["addr", "data"]
    _, number, args = inspect.signature(Process.syscall).parameters.values()
    assert number.name == "number" and args.kind is inspect.Parameter.VAR_POSITIONAL
    assert parameters(Machine.sent) == {"index": EMPTY}
    assert parameters(Machine.restore) == {"snapshot": EMPTY}
    for name in ("run_until_idle", "trace_pipe", "snapshot", "close"):
        assert parameters(getattr(Machine, name)) == {}


def test_the_contract_as_it_is_written_down() -> None:
    """The example of the contract, line by line."""
    m = Machine.boot(seed=0, cpus=1, jit=True)
    p = m.process(uid=0)
    a = p.alloc(100)
    p.write(a, b"data")
    assert p.read(a, 4) == b"data"
    assert p.syscall(39, 0, 0, 0, 0, 0, 0) == p.pid
    assert p.syscall(321, 99, 0, 0) == -22
    with pytest.raises(GuestFault):
        p.read(0, 1)
    m.nic[0].inject(bytes(60))
    assert m.run_until_idle() == 1
    assert m.sent(0) == []
    m.clock.advance(5)
    assert m.trace_pipe() == ""
    s = m.snapshot()
    assert isinstance(s, Snapshot)
    m.restore(s)
    m.close()
    with Machine.boot() as again:
        assert again.config == Config()


def test_public_functions_are_described() -> None:
    for module in (sim.machine, sim.process):
        for name, cls in inspect.getmembers(module, inspect.isclass):
            if cls.__module__ != module.__name__ or name.startswith("_"):
                continue
            for method, value in vars(cls).items():
                if not method.startswith("_") and callable(value):
                    assert value.__doc__, f"{name}.{method}"
