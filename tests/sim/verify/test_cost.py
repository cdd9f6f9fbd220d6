# SPDX-License-Identifier: GPL-2.0-only
"""Costs add up to what the log counts, and fall on the lines that cause them."""

from __future__ import annotations

import json
import re

import pytest

import guests
from sim.cli.errors import Status
from sim.cli.main import run
from sim.userspace.object import read_object
from sim.verify.cost import Cost
from sim.verify.judge import Options, judge


def cost(path: str, program: str, timed: bool = False) -> tuple[Cost, str]:
    found = judge(read_object(guests.path(path)), program, Options(cost=True, timed=timed))
    assert found.cost is not None
    return found.cost, found.log


@pytest.mark.parametrize(
    ("path", "program"),
    [
        ("xdp_filter.o", "xdp_filter"),
        ("xdp_filter.o", "xdp_forward"),
        ("bench/csum512.bpf.o", "csum512"),
        ("rejected/bounds_check.o", "bounds_check"),
        ("rejected/big_stack.o", "big_stack"),
    ],
)
def test_rows_add_up_to_the_log(path: str, program: str) -> None:
    found, log = cost(path, program)
    counts = re.search(r"processed (\d+) insns .* total_states (\d+) peak_states (\d+)", log)
    assert counts is not None
    assert (found.processed, found.total_states, found.peak_states) == tuple(map(int, counts.groups()))
    for rows in (found.functions, found.lines):
        assert sum(row.processed for row in rows) == found.processed
        assert sum(row.insns for row in rows) == len(read_object(guests.path(path)).programs[program].insns)
        assert sum(row.states for row in rows) <= found.total_states
        assert sum(row.branches for row in rows) == found.branches
        assert sum(row.pruned for row in rows) == found.pruned
        assert [row.processed for row in rows] == sorted((row.processed for row in rows), reverse=True)
    assert found.seconds is None


def test_every_path_ends_by_exit_or_by_a_known_state() -> None:
    """Each branch put aside is one more path; each path is pruned or reaches an exit of the main function."""
    found, _ = cost("bench/csum512.bpf.o", "csum512")
    assert (found.branches, found.pruned) == (1, 1)


def test_the_loop_is_what_costs() -> None:
    found, _ = cost("bench/csum512.bpf.o", "csum512")
    hot = found.lines[0]
    assert (hot.place, hot.text) == ("csum512.c:16", "sum += *(__u32 *)(data + i);")
    assert hot.visits == 128
    assert hot.processed == 4 * 128


def test_functions_are_told_apart() -> None:
    found, _ = cost("xdp_filter.o", "xdp_filter")
    assert [row.name for row in found.functions] == ["xdp_filter", "parse_ports", "account"]


def test_time_is_marked(capsys: pytest.CaptureFixture[str]) -> None:
    filter_path = str(guests.path("xdp_filter.o"))
    once = []
    for _ in range(2):
        assert run(["verify", filter_path, "--cost", "--json"]) == Status.OK
        once.append(capsys.readouterr().out)
    assert once[0] == once[1]
    plain = json.loads(once[0].splitlines()[0])["cost"]
    assert plain["nondeterministic"] == []
    assert "seconds" not in plain and "seconds" not in plain["lines"][0]

    assert run(["verify", filter_path, "--cost", "--time", "--json"]) == Status.OK
    timed = json.loads(capsys.readouterr().out.splitlines()[0])["cost"]
    assert timed["nondeterministic"] == ["seconds"]
    assert timed["seconds"] == pytest.approx(sum(row["seconds"] for row in timed["functions"]))
    assert timed["seconds"] > 0

    def without_time(value: object) -> object:
        if isinstance(value, dict):
            return {k: without_time(v) for k, v in value.items() if k not in ("seconds", "nondeterministic")}
        return [without_time(each) for each in value] if isinstance(value, list) else value

    assert without_time(timed) == without_time(plain)


def test_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", str(guests.path("bench/csum512.bpf.o")), "--cost"]) == Status.OK
    out = capsys.readouterr().out
    assert "923 instructions processed, 0.09 % of the limit" in out
    assert re.search(r"csum512\.c:16 +512 +55\.5 +4 +128 .*sum \+= \*\(__u32 \*\)\(data \+ i\);", out)


def test_time_needs_cost(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", str(guests.path("xdp_filter.o")), "--time"]) == Status.BAD_INPUT
    assert "--time goes with --cost" in capsys.readouterr().err
