# SPDX-License-Identifier: GPL-2.0-only
"""``bpfsim diff``: what it reads, what it prints, its page, and its exit status."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from planted import planted

import guests
from sim.cli.errors import Status
from sim.cli.main import run
from sim.diff.cases import read_cases
from sim.diff.raw import RawRunner
from sim.trace import x86

CASES = Path(__file__).parents[2] / "cases"
WRONG_ADD: dict[str, str | int] = {"add rdi, rsi": "add edi, esi"}
PROGRAM = """=== sum
r0: 0x200000002
---
r1 = 0x100000001 ll
r2 = 0x100000001 ll
r1 += r2
r0 = r1
exit
=== other
r0: 1
---
r0 = 1
exit
"""


@pytest.fixture
def cases(tmp_path: Path) -> str:
    path = tmp_path / "cases.txt"
    path.write_text(PROGRAM)
    return str(path)


def test_every_case_agrees_and_gives_what_it_says() -> None:
    with RawRunner() as runner:
        for path in sorted(CASES.glob("*.txt")):
            for case in read_cases(path.read_text(), path.name):
                finding = runner.run(case)
                assert finding.agree, (case.name, finding.headline(), finding.ending)
                if case.r0 is not None:
                    steps = list(finding.interpreter.executions[0])
                    assert steps[-1].regs[0] == case.r0, case.name


def test_the_bundled_object_agrees(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["diff", str(guests.path("xdp_filter.o"))]) == Status.OK
    assert re.fullmatch(
        r"xdp_filter: \d{5,} instructions of 303 program runs agree\n", capsys.readouterr().out
    )


def test_a_bare_program_is_loaded_and_fed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bare.txt"
    path.write_text("r0 = *(u32 *)(r1 +16)\nr0 += 2\nexit\n")
    assert run(["diff", str(path), "--json"]) == Status.OK
    answer = json.loads(capsys.readouterr().out)
    (program,) = answer["programs"]
    assert program["executions"] == 303
    assert program["instructions"]["interpreter"] == program["instructions"]["jit"] > 3 * 303


def test_a_difference_in_an_attached_program_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bare.txt"
    path.write_text("r1 = 0x100000001 ll\nr2 = 0x100000001 ll\nr1 += r2\nr1 >>= 32\nr0 = r1\nexit\n")
    with planted(WRONG_ADD):
        assert run(["diff", str(path), "--json"]) == Status.DIFFERS
    (program,) = json.loads(capsys.readouterr().out)["programs"]
    assert program["difference"]["text"] == "bare 4: (0f) r1 += r2"
    assert any("verdict of frame 0" in line for line in program["end"])


def test_text_names_the_instruction(cases: str, capsys: pytest.CaptureFixture[str]) -> None:
    with planted(WRONG_ADD):
        assert run(["diff", cases]) == Status.DIFFERS
    text = capsys.readouterr().out
    assert "registers differ after the instruction: sum 7: (0f) r1 += r2" in text
    assert re.search(r"r1 \* +0x100000001 +0x200000002 +0x2\n", text)
    assert "01 f7" in text
    assert "at the end: R0: interpreter 0x200000002, jit 0x2" in text
    assert text.endswith("1 of 2 programs agree\n")


def test_one_case_by_name(cases: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["diff", cases, "--prog", "other", "--json"]) == Status.OK
    answer = json.loads(capsys.readouterr().out)
    assert [each["name"] for each in answer["programs"]] == ["other"]


def test_without_a_disassembler_the_bytes_are_shown(
    cases: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object) -> list[x86.X86Line]:
        raise x86.MissingExtra("disassembly of x86 code", "x86dis")

    monkeypatch.setattr("sim.diff.finding.disassemble", missing)
    with planted(WRONG_ADD):
        assert run(["diff", cases, "--json"]) == Status.DIFFERS
    difference = json.loads(capsys.readouterr().out)["programs"][0]["difference"]
    assert [(each["code"], each["text"]) for each in difference["x86"]] == [("01 f7", "")]


class Page(HTMLParser):
    """Collects what a page refers to, its tags, and the text of marked rows and differing cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.marked: list[str] = []
        self.differs: list[str] = []
        self._row = self._cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.references += [str(found[name]) for name in ("src", "href") if name in found]
        if tag != "meta":
            self.open.append(tag)
        if tag == "tr":
            self._row = found.get("class") == "marked"
        self._cell = tag == "td" and found.get("class") == "differs"

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._row:
            self.marked.append(data)
        if self._cell:
            self.differs.append(data)


def test_the_page_stands_alone_and_marks_the_instruction(cases: str, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    with planted(WRONG_ADD):
        assert run(["diff", cases, "--html", str(path)]) == Status.DIFFERS
    text = path.read_text()
    page = Page(text)
    assert not page.open
    assert all(reference.startswith("#") for reference in page.references)
    assert "@import" not in text
    assert "url(" not in text
    assert "7: (0f) r1 += r2" in page.marked
    assert page.differs == ["0x0000000100000001", "0x0000000200000002", "0x0000000000000002"]
    assert "01 f7" in text


def test_names_are_escaped_on_the_page(tmp_path: Path) -> None:
    path, out = tmp_path / "evil.txt", tmp_path / "page.html"
    path.write_text("=== <script>alert(1)</script>\nr0: 1\n---\nr0 = 1\nexit\n")
    assert run(["diff", str(path), "--html", str(out)]) == Status.OK
    assert "<script>alert" not in out.read_text()


BAD = {
    "no instruction": (b"r0 = what\n", "bad.txt:1: no such instruction"),
    "a wrong line in a case": (b"=== a\nr0: 1\n---\nr0 = what\n", "bad.txt:4: no such instruction"),
    "an unknown head": (b"=== a\nresult: 1\n---\nexit\n", "bad.txt:2: no such line"),
    "a case without a program": (b"=== a\nr0: 1\n---\n", "without instructions"),
    "no text": (b"\xff\xfe\x00", "neither an ELF object nor text"),
    "too much memory": (b"=== a\nmem: " + b"00" * 4097 + b"\nr0: 1\n---\nexit\n", "4097 bytes"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input(what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, message = BAD[what]
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    assert run(["diff", str(path)]) == Status.BAD_INPUT
    assert message in capsys.readouterr().err


def test_other_bad_arguments(cases: str, tmp_path: Path) -> None:
    assert run(["diff", str(tmp_path / "missing")]) == Status.BAD_INPUT
    assert run(["diff", cases, "--prog", "nobody"]) == Status.BAD_INPUT
    assert run(["diff", cases, "--input", str(guests.path("bundled.pcap"))]) == Status.BAD_INPUT


def test_what_is_not_modelled_ends_with_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "case.txt"
    path.write_text("=== a\nr0: 1\n---\nr0 = 0\ncall pc+1\nexit\nr0 = *(u8 *)skb[0]\nexit\n")
    assert run(["diff", str(path)]) == Status.NOT_MODELLED
    assert "not modelled" in capsys.readouterr().err
