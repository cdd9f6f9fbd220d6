# SPDX-License-Identifier: GPL-2.0-only
"""Rejected C programs: the explanation names line, register, cause and cure, and the log stays whole."""

from __future__ import annotations

import json
from itertools import pairwise

import host_bpf
import pytest
from host_process import HostProcess
from rejected_guests import GUESTS, Guest

import guests
from sim.cli.errors import Status
from sim.cli.main import run
from sim.userspace.loader import LoadError, load
from sim.userspace.object import read_object
from sim.verify.judge import UNMODELLED, Options, Verdict, judge


def verdict(guest: Guest) -> Verdict:
    spec = read_object(guests.path(f"rejected/{guest.name}.o"))
    found = judge(spec, guest.name, Options())
    if found.verdict == UNMODELLED:
        pytest.skip(found.error)
    return found


def test_every_rejected_guest_is_here() -> None:
    folder = guests.path("rejected/null_check.o").parent
    assert sorted(path.stem for path in folder.glob("*.o")) == sorted(guest.name for guest in GUESTS)


@pytest.mark.parametrize("guest", GUESTS, ids=lambda guest: guest.name)
def test_explanation(guest: Guest, capsys: pytest.CaptureFixture[str]) -> None:
    found = verdict(guest)
    assert found.error == guest.message
    explanation = found.explanation
    assert explanation is not None
    assert explanation.rule == guest.rule
    assert (explanation.source.text.strip() if explanation.source else "").startswith(guest.line)
    assert explanation.fixes

    assert run(["verify", str(guests.path(f"rejected/{guest.name}.o"))]) == Status.DIFFERS
    out = capsys.readouterr().out
    words = " ".join(out.replace("|", " ").split())
    for phrase in (guest.message, *guest.phrases):
        assert " ".join(phrase.split()) in words, out
    log = [line.rstrip() for line in found.log.splitlines()]
    shown = [line.rstrip() for line in out.splitlines()]
    assert [f"  {line}".rstrip() for line in log] == shown[shown.index(f"log of {guest.name}:") + 1 :][
        : len(log)
    ]


@pytest.mark.parametrize("guest", GUESTS, ids=lambda guest: guest.name)
def test_the_path_is_one_that_the_program_can_take(guest: Guest) -> None:
    """Each instruction of the way there follows from the one before; it ends at the refused one."""
    from sim.verify.judge import _load
    from sim.verify.recorder import PathRecorder

    recorder = PathRecorder()
    spec = read_object(guests.path(f"rejected/{guest.name}.o"))
    _load(spec, guest.name, Options(), Verdict(spec.path), 4, recorder)
    recording = recorder.recording
    if recording is None:
        pytest.skip("the verifier was not reached")
    insns, path = recording.insns, recording.path
    assert path[0].at == 0
    for here, there in pairwise(path):
        insn = insns[here.at]
        following = {
            here.at + (2 if insn.code == 0x18 else 1),
            here.at + 1 + insn.off,
            here.at + 1 + insn.imm,
        }
        assert there.at in following or insn.code == 0x95
    if guest.line and guest.rule != "endless-loop":
        assert path[-1].at == recording.insn


@host_bpf.host_kernel
@pytest.mark.parametrize("guest", GUESTS, ids=lambda guest: guest.name)
def test_the_host_refuses_them_with_the_same_words(guest: Guest) -> None:
    spec = read_object(guests.path(f"rejected/{guest.name}.o"))
    with pytest.raises(LoadError) as caught:
        load(HostProcess(), spec, log_level=1)
    assert caught.value.reason == guest.message


def test_json_has_one_object_a_line(capsys: pytest.CaptureFixture[str], tmp_path: object) -> None:
    names = [str(guests.path("rejected/null_check.o")), "nowhere.o", str(guests.path("xdp_filter.o"))]
    assert run(["verify", *names, "--json"]) == Status.BAD_INPUT
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["program"], row["ok"], row["errno"], row["error"]) for row in rows] == [
        ("null_check", False, 13, "R0 invalid mem access 'map_value_or_null'"),
        (None, False, 2, "nowhere.o: No such file or directory"),
        ("xdp_forward", True, 0, ""),
        ("xdp_filter", True, 0, ""),
    ]
    fields = ["object", "program", "section", "type", "ok", "errno", "processed", "insns"]
    for row in rows:
        assert list(row)[:11] == [*fields, "xlated_len", "jited_len", "error"]
    first = rows[0]
    assert first["explanation"]["source"]["line"] == 18
    assert first["explanation"]["known"][0]["register"] == "r0"
    assert first["explanation"]["message"] in first["log"]
    assert (first["xlated_len"], first["jited_len"]) == (None, None)
    assert rows[3]["xlated_len"] > 1000 and rows[3]["jited_len"] > 1000
    assert rows[3]["insns"] > 100 and rows[3]["processed"] > rows[3]["insns"]
