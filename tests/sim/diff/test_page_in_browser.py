# SPDX-License-Identifier: GPL-2.0-only
"""The HTML page of ``bpfsim diff`` as a browser lays it out."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from planted import planted

from sim.cli.errors import Status
from sim.cli.main import run

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium to look at the page with")

FILLING = "".join(f"r{3 + n % 5} = {n}\n" for n in range(120))
CASES = f"""=== wrong
---
{FILLING}r1 = 0x100000001 ll
r2 = 0x100000001 ll
r1 += r2
{FILLING}r0 = r1
exit
=== too
---
r1 = 0x100000001 ll
r2 = 0x100000001 ll
r1 += r2
r0 = 0
exit
=== right
---
r0 = 1
exit
"""
MEASURE = """
<script>
{
  const box = (node) => { const r = node.getBoundingClientRect();
    return { left: r.left, right: r.right, top: r.top, bottom: r.bottom, width: r.width }; };
  const marked = document.querySelector(".three tr.marked");
  const far = document.querySelectorAll("section")[1];
  const before = scrollY;
  dispatchEvent(new KeyboardEvent("keydown", { key: "n" }));
  const moved = { from: before, to: scrollY, top: far.getBoundingClientRect().top };
  dispatchEvent(new KeyboardEvent("keydown", { key: "p" }));
  scrollTo(0, 0);
  const found = {
    columns: [...document.querySelector(".three").children].map(box),
    titles: [...document.querySelectorAll(".three > div > h3")].slice(0, 3).map((h) => h.textContent),
    marked: box(marked), text: marked.textContent, box: box(marked.closest(".scroll")),
    colours: [document.body, marked.cells[0], document.querySelector("td.differs")]
      .map((node) => getComputedStyle(node)).map((style) => [style.color, style.backgroundColor]),
    wide: document.documentElement.scrollWidth, view: innerWidth, moved,
    differs: [...document.querySelectorAll("section:first-of-type td.differs")].map((n) => n.textContent),
    links: [...document.querySelectorAll("header a")].map((a) => document.querySelector(a.hash) !== null),
    fetched: performance.getEntriesByType("resource").map((entry) => entry.name),
  };
  document.documentElement.dataset.found = JSON.stringify(found);
}
</script>
"""


@dataclass(frozen=True)
class Look:
    """What the browser found on the page, and its own words about it."""

    found: dict[str, Any]
    console: list[str]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    cases, out = folder / "cases.txt", folder / "page.html"
    cases.write_text(CASES)
    with planted({"add rdi, rsi": "add edi, esi"}):
        assert run(["diff", str(cases), "--html", str(out)]) == Status.DIFFERS
    text = out.read_text()
    assert text.count("</body>") == 1
    (folder / "measured.html").write_text(text.replace("</body>", MEASURE + "</body>"))
    return folder / "measured.html"


def look(page: Path, width: int, *more: str) -> Look:
    """Lay the page out in a window of this width; the window cannot reach any network."""
    assert BROWSER is not None
    command = [
        *(BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
        *(f"--user-data-dir={page.parent / 'profile'}", "--host-resolver-rules=MAP * ~NOTFOUND"),
        *("--enable-logging=stderr", "--v=0", "--virtual-time-budget=3000"),
        *(f"--window-size={width},900", *more, "--dump-dom", page.as_uri()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    match = re.search(r'data-found="([^"]*)"', done.stdout)
    assert match is not None, done.stderr[-2000:]
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return Look(json.loads(html.unescape(match.group(1))), console)


def test_three_columns_and_the_first_divergence_in_view(page: Path) -> None:
    seen = look(page, 1280)
    found = seen.found
    assert seen.console == []
    assert found["fetched"] == []
    assert found["titles"] == ["BPF", "x86 of the marked instruction", "Registers"]
    first, second, third = found["columns"]
    assert min(each["width"] for each in found["columns"]) > 200
    assert first["top"] == second["top"] == third["top"]
    assert first["right"] <= second["left"] < second["right"] <= third["left"]
    assert "r1 += r2" in found["text"]
    # Row 120 of a long program: without scrolling it would lie far below its box.
    assert found["box"]["top"] < found["marked"]["top"] < found["marked"]["bottom"] < found["box"]["bottom"]
    assert 0 < found["marked"]["top"] < found["marked"]["bottom"] < 900
    assert found["differs"] == ["0x0000000100000001", "0x0000000200000002", "0x0000000000000002"]
    assert found["links"] == [True, True]
    assert found["wide"] <= found["view"]


def test_keys_go_from_one_difference_to_the_next(page: Path) -> None:
    moved = look(page, 1280).found["moved"]
    assert moved["to"] > moved["from"]
    assert 0 <= moved["top"] < 450


def test_a_narrow_window_stacks_the_columns(page: Path) -> None:
    found = look(page, 600).found
    first, second, third = found["columns"]
    assert first["left"] == second["left"] == third["left"]
    assert first["bottom"] <= second["top"] < second["bottom"] <= third["top"]
    assert found["wide"] <= found["view"]


def test_the_dark_scheme_is_dark_and_readable(page: Path) -> None:
    bright = look(page, 1280).found["colours"]
    dark = look(page, 1280, "--blink-settings=preferredColorScheme=0").found["colours"]
    for scheme, lighter_text in ((bright, False), (dark, True)):
        for text, background in scheme:
            assert (_light(text) > _light(background)) is lighter_text
            assert abs(_light(text) - _light(background)) > 90
    assert bright != dark


def _light(colour: str) -> float:
    """The brightness, 0 to 255, of ``rgb(r, g, b)``."""
    red, green, blue = (int(part) for part in re.findall(r"\d+", colour)[:3])
    return 0.299 * red + 0.587 * green + 0.114 * blue
