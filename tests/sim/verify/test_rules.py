# SPDX-License-Identifier: GPL-2.0-only
"""Every rejection that the verifier can utter has a plain-word rule."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import kernel_model.verifier
from sim.verify.rules import FALLBACK, GENERAL, RULES, find_rule

PACKAGE = Path(kernel_model.verifier.__file__).parent
INFORMATIVE = (
    "Func#7 ('7') is",
    "Live regs before insn:",
    "Unreleased reference id=7",
    "Validating 7() func#7",
    "7 live stack update done",
    "SCC ",
    "force_precise: ",
    "mark_precise: ",
    "caller:",
    "callee:",
    "cur state:",
    "from 7 to 7",
    "frame7 bpf_loop iteration limit",
    "func#7 @7",
    "i.e., in a RCU/IRQ/preempt-disabled",
    "old state:",
    "returning from callee:",
    "stack depth ",
    "to caller at 7:",
    "verification time ",
    "7: safe",
)
"""The beginnings of lines that reject nothing, or that another line follows before the rejection."""


def _template(node: ast.expr) -> str | None:
    """A string literal with 7 for what is filled in; None for anything else."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "7" for part in node.values)
    return None


# What is written past env.verbose() is no reason either: log.write() is left out below.


def _documentation(tree: ast.AST) -> set[int]:
    """Lines of string literals that stand for themselves."""
    return {
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }


def messages() -> Iterator[tuple[str, str]]:
    """(place, line) of every line of text in the package that goes to the log."""
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text())
        skip = _documentation(tree)
        written = [
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("log.write")
        ]
        skip |= {part.lineno for node in written for part in ast.walk(node) if isinstance(part, ast.expr)}
        # Tables of names are no messages.
        tables = [node.value for node in tree.body if isinstance(node, ast.AnnAssign) and node.value]
        skip |= {
            part.lineno for table in tables for part in ast.walk(table) if isinstance(part, ast.Constant)
        }
        inside = {
            id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values
        }
        for node in ast.walk(tree):
            place = f"{path.relative_to(PACKAGE)}:{getattr(node, 'lineno', 0)}"
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr == "reject"
            ):
                text = _template(node.args[1])
                if text and not text.endswith("\n"):
                    yield place, text
            if isinstance(node, (ast.Constant, ast.JoinedStr)) and id(node) not in inside:
                text = _template(node)
                if text and text.endswith("\n") and text.strip() and node.lineno not in skip:
                    yield from ((place, line) for line in text.strip().split("\n"))


CASES = [(place, text) for place, text in messages() if not text.strip().startswith(INFORMATIVE)]


def test_messages_are_found() -> None:
    """The search itself works: these are in the package in three different forms."""
    texts = {text.strip() for _, text in CASES}
    assert len(texts) > 120
    assert {
        "R7 !read_ok",
        "R7 unbounded memory access, make sure to bounds check any such access",
        "expected prog array map for tail call",
    } <= texts


@pytest.mark.parametrize(("place", "text"), CASES, ids=[f"{place} {text[:40]}" for place, text in CASES])
def test_every_message_has_a_rule(place: str, text: str) -> None:
    rule, _ = find_rule(text)
    assert rule is not FALLBACK, (
        f"add a row to sim/verify/rules.py (RULES or GENERAL) for {text!r} of {place}"
    )


@pytest.mark.parametrize("rule", [*RULES, *GENERAL], ids=lambda rule: rule.key)
def test_rules_are_complete(rule: object) -> None:
    from sim.verify.rule import Rule

    assert isinstance(rule, Rule)
    assert rule.title and rule.why.endswith(".")
    assert all(fix for fix in rule.fixes)


def test_every_rule_is_for_some_message() -> None:
    used = {id(find_rule(text)[0]) for _, text in CASES}
    unused = [rule.key for rule in (*RULES, *GENERAL) if id(rule) not in used]
    # Their words are put together from parts.
    assert set(unused) <= {"maybe-null", "not-a-pointer", "verifier-bug", "not-modelled", "packet-range"}
