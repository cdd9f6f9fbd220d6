# SPDX-License-Identifier: GPL-2.0-only
"""Findings as one HTML page that needs nothing else: no script, style, font or image from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources
from string import Template

from ..trace import REGISTERS, Recording, Where
from .finding import Finding, Line

AROUND = 100
"""BPF instructions on each side of the one that is marked."""
_SHOWN = 20
"""Findings that differ and are shown in full."""


def page(title: str, findings: Sequence[Finding]) -> str:
    """The page: those that differ side by side, then a line for each that agrees."""
    differing = [each for each in findings if not each.agree]
    sections = [_section(number, each) for number, each in enumerate(differing[:_SHOWN])]
    if len(differing) > _SHOWN:
        sections.append(f"<p>{len(differing) - _SHOWN} more differ: see --json.</p>")
    agreeing = [each for each in findings if each.agree]
    if agreeing:
        rows = [(each.name, each.headline()) for each in agreeing]
        sections.append('<h2 class="agree">Both engines agree</h2>' + _table(("program", "compared"), rows))
    template = Template(resources.files(__package__).joinpath("page.html").read_text("utf-8"))
    return template.substitute(
        title=escape(title), links=_links(differing[:_SHOWN]), sections="\n".join(sections)
    )


def _links(differing: Sequence[Finding]) -> str:
    """The head's links to what differs, and the keys that go from one to the next."""
    if not differing:
        return "<span>no difference</span>"
    links = " ".join(
        f'<a href="#difference{number}">{escape(each.name)}</a>' for number, each in enumerate(differing)
    )
    keys = "<span><kbd>n</kbd> next, <kbd>p</kbd> previous</span>" if len(differing) > 1 else ""
    return f"<span>differs:</span> {links} {keys}"


def _section(number: int, finding: Finding) -> str:
    name = escape(finding.name)
    parts = [f'<h2 class="differ" id="difference{number}">{name}: {escape(finding.headline())}</h2>']
    difference = finding.comparison.difference
    if difference is not None and difference.reason:
        parts.append(f"<p>{escape(difference.reason)}</p>")
    if finding.ending:
        parts.append("<ul>" + "".join(f"<li>{escape(line)}</li>" for line in finding.ending) + "</ul>")
    if finding.where is not None:
        native = [(f"{each.addr:x}", each.code, each.text) for each in finding.native()]
        parts.append(
            _columns(
                "<h3>BPF</h3>" + _scroll(_program(finding.jit, finding.where)),
                "<h3>x86 of the marked instruction</h3>"
                + _scroll(_table(("address", "bytes", "text"), native)),
                "<h3>Registers</h3>" + _scroll(_registers(finding)),
                style="columns three",
            )
        )
    left, right = finding.histories()
    parts.append(
        _columns("<h3>Interpreter</h3>" + _scroll(_history(left)), "<h3>JIT</h3>" + _scroll(_history(right)))
    )
    return "<section>" + "\n".join(parts) + "</section>"


def _scroll(content: str) -> str:
    """A box of its own for what may be long or wide."""
    return f'<div class="scroll" tabindex="0">{content}</div>'


def _columns(*columns: str, style: str = "columns") -> str:
    return f'<div class="{style}">' + "".join(f"<div>{each}</div>" for each in columns) + "</div>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], marked: int = -1) -> str:
    style = {marked: ' class="marked"'}
    body = "".join(
        f"<tr{style.get(number, '')}>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
        for number, row in enumerate(rows)
    )
    return f"<table><tr>{''.join(f'<th>{escape(each)}</th>' for each in head)}</tr>{body}</table>"


def _program(recording: Recording, where: Where) -> str:
    prog = recording.programs[where.prog]
    slots, slot = [], 0
    while slot < len(prog.insns):
        slots.append(slot)
        slot = prog.next_slot(slot)
    at = slots.index(where.slot)
    shown = slots[max(at - AROUND, 0) : at + AROUND + 1]
    return _table((prog.name,), [(prog.line(each),) for each in shown], shown.index(where.slot))


def _registers(finding: Finding) -> str:
    difference, before = finding.comparison.difference, finding.before()
    assert difference is not None
    rows = []
    for number, name in enumerate(REGISTERS):
        cells = [
            f"{step.regs[number]:#018x}" if step is not None else "-"
            for step in (before, difference.interpreter, difference.jit)
        ]
        values = {step.regs[number] for step in (difference.interpreter, difference.jit) if step is not None}
        style = ' class="differs"' if name in difference.registers else ""
        if not style and len(values) > 1:
            style = ' class="dead" title="not compared: it holds no value here"'
        rows.append(f"<tr><td>{name}</td>" + "".join(f"<td{style}>{each}</td>" for each in cells) + "</tr>")
    head = "<tr><th></th><th>before</th><th>interpreter after</th><th>jit after</th></tr>"
    return f"<table>{head}{''.join(rows)}</table>"


def _history(lines: Sequence[Line]) -> str:
    marked = next((number for number, line in enumerate(lines) if line.marked), -1)
    rows = [
        (str(line.step), line.text, " ".join(f"{n}={v:#x}" for n, v in line.changed.items()), line.memory)
        for line in lines
    ]
    return _table(("step", "instruction", "changed", "memory"), rows, marked)
