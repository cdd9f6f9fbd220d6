# SPDX-License-Identifier: GPL-2.0-only
"""The verifier's benchmark: its programs are accepted, the same each time, and as large as they say."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from host_bpf import host_kernel

from kernel_model.isa import opcodes as op
from sim.bench import verifying
from sim.bench.large_programs import LARGE
from sim.bench.verifying import Host, NotAccepted, Verification, verify_fresh, verify_here
from sim.cli.bench import bench

SIZES = {"branches": 300, "loop": 3_000, "lookup_loop": 1_000}
SMALL = {name: SIZES.get(name, 600) for name in LARGE}


@pytest.mark.parametrize("name", LARGE)
def test_programs_are_accepted_and_depend_on_the_seed_alone(name: str) -> None:
    size = SMALL[name]
    found = verify_here(name, size)
    assert found.processed >= found.insns * 0.9
    assert found == Verification(
        name, len(LARGE[name].insns(0, size)), found.processed, found.seconds, found.memory, found.form
    )
    assert LARGE[name].insns(0, size) == LARGE[name].insns(0, size)
    assert verify_here(name, size).processed == found.processed
    if name != "subprogs":
        assert LARGE[name].insns(1, size) != LARGE[name].insns(0, size)


@host_kernel
@pytest.mark.parametrize("name", LARGE)
def test_the_host_processes_as_many(name: str) -> None:
    host = Host()
    try:
        answer = host.verify(name, SMALL[name])
    finally:
        host.close()
    assert answer is not None
    assert answer[1] == verify_here(name, SMALL[name]).processed


@host_kernel
def test_the_host_is_not_asked_about_more_than_ten_thousand() -> None:
    host = Host()
    try:
        assert host.verify("straight", 10_200) is None
    finally:
        host.close()


def test_straight_lines_and_loops_process_what_their_size_says() -> None:
    for name in verifying.GROWING:
        for size in (2_000, 4_000):
            assert verify_here(name, size).processed == pytest.approx(size, rel=0.03)
    assert not any(insn.code & 7 == op.BPF_JMP for insn in LARGE["straight"].insns(0, 500)[:-1])


def test_a_fresh_python_finds_the_same() -> None:
    fresh = verify_fresh("loop", 3_000, pure=True)
    assert (fresh.processed, fresh.form) == (verify_here("loop", 3_000).processed, "Python")
    with pytest.raises(NotAccepted, match="too complex"):
        verify_fresh("lookup_loop", 400_000, pure=True)


ROWS = [
    Verification("loop", 45, 200_000, 0.5, 3 << 20, "Python", 0.1, 200_000),
    Verification("straight_long", 200_000, 199_999, 2.0, 1 << 27, "Python"),
]


def test_the_table_and_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifying, "measure_verifier", lambda *_args, **_more: ROWS)
    shown = CliRunner().invoke(bench, ["--verifier"])
    assert shown.exit_code == 0
    assert shown.output.splitlines()[1:3] == [
        "loop                45   200,000    0.500     400,000    3.0 MiB    0.100     5.0",
        "straight_long  200,000   199,999    2.000     100,000  128.0 MiB        -       -",
    ]
    rows = json.loads(CliRunner().invoke(bench, ["--verifier", "--json"]).output)
    assert [(row["schema"], row["processed_per_s"], row["ratio"]) for row in rows] == [
        (1, 400_000, 5.0),
        (1, 100_000, None),
    ]


def test_another_count_on_the_host_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    other = Verification("loop", 45, 200_000, 0.5, 0, "compiled", 0.1, 199_000)
    monkeypatch.setattr(verifying, "measure_verifier", lambda *_args, **_more: [other])
    assert "loop: the host processed 199,000" in CliRunner().invoke(bench, ["--verifier"]).output


def test_refusals_end_the_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_args: object, **_more: object) -> list[Verification]:
        raise NotAccepted("loop: not this one")

    monkeypatch.setattr(verifying, "measure_verifier", refused)
    shown = CliRunner().invoke(bench, ["--verifier"])
    assert (shown.exit_code, shown.output) == (1, "bpfsim bench: loop: not this one\n")
    assert CliRunner().invoke(bench, ["--verifier", "--workload", "nothing"]).exit_code == 2
