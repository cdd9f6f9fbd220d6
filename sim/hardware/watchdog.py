# SPDX-License-Identifier: GPL-2.0-only
"""Ends runs that would never end: one resident thread that watches the machine's CPU.

Arming costs two assignments, so unobserved runs pay next to nothing. The host's time is used only to
decide that a run is hopeless, never for anything that a guest can see; it is the processor time of the
thread that runs, so a busy host makes no run hopeless.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

_STEPS = 8
"""How often a run is looked at within its time."""


class Watchdog:
    """Calls ``stop`` when one run takes more than ``seconds`` of processor time (0 turns it off)."""

    def __init__(self, stop: Callable[[], object], seconds: float) -> None:
        self._stop = stop
        self._seconds = seconds
        self._allowed = seconds
        self._run = 0
        self._runner = 0
        self._armed = False
        self._fired_run = -1
        self._looking = False
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def arm(self, patience: int = 1) -> None:
        """A run begins, in the calling thread; it may take ``patience`` times as long as others."""
        self._run += 1
        self._allowed = self._seconds * patience
        self._runner = threading.get_ident()
        self._armed = True
        if self._thread is None and self._seconds > 0:
            self._thread = threading.Thread(target=self._watch, name="bpfsim-watchdog", daemon=True)
            self._thread.start()

    def disarm(self) -> None:
        """The run has ended. A stop that is on its way is waited for: the next run must not meet it."""
        self._armed = False
        while self._looking:
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
        seen, began = -1, 0.0
        while not self._closing.wait(self._seconds / _STEPS):
            if not self._armed:
                continue
            # Announced before the second look, so that disarm() either is seen here or waits for this:
            # while it waits, the run's thread exists.
            self._looking = True
            if self._armed:
                run = self._run
                spent = time.clock_gettime(time.pthread_getcpuclockid(self._runner))
                if run != seen:
                    seen, began = run, spent
                elif spent - began >= self._allowed:
                    self._fired_run = run
                    self._stop()
            self._looking = False
