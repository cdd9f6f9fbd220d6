# SPDX-License-Identifier: GPL-2.0-only
"""Ends runs that would never end: one resident thread that watches the machine's CPU.

Arming costs an assignment, so unobserved runs pay nothing. Host time is used only to decide that a run
is hopeless, never for anything that a guest can see.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Watchdog:
    """Calls ``stop`` when one run lasts longer than ``seconds`` of host time (0 turns it off)."""

    def __init__(self, stop: Callable[[], object], seconds: float) -> None:
        self._stop = stop
        self._seconds = seconds
        self._run = 0
        self._armed = False
        self._fired_run = -1
        self._firing = False
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def arm(self) -> None:
        """A run begins."""
        self._run += 1
        self._armed = True
        if self._thread is None and self._seconds > 0:
            self._thread = threading.Thread(target=self._watch, name="bpfsim-watchdog", daemon=True)
            self._thread.start()

    def disarm(self) -> None:
        """The run has ended. A stop that is on its way is waited for: the next run must not meet it."""
        self._armed = False
        while self._firing:
            time.sleep(0)

    def fired(self) -> bool:
        """Was the last run ended by the watchdog?"""
        return self._fired_run == self._run

    def close(self) -> None:
        """Stop the thread."""
        self._closing.set()
        # A machine that nobody closed may be collected by this very thread.
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _watch(self) -> None:
        step = self._seconds / 8
        seen, steps = -1, 0
        while not self._closing.wait(step):
            if not self._armed or self._run != seen:
                seen, steps = self._run, 0
                continue
            steps += 1
            if steps >= 8:
                # Announced before the last look, so that disarm() either is seen here or sees this.
                self._firing = True
                if self._armed and self._run == seen:
                    self._fired_run = seen
                    self._stop()
                self._firing = False
                steps = 0
