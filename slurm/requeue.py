"""Signals set a flag and do nothing else; the loop asks for it at a step boundary, where all ranks can agree."""

from __future__ import annotations

import signal
from types import FrameType

STOP_SIGNALS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)


class StopFlag:
    """True once one of the stop signals has come; a second Ctrl-C ends the process at once."""

    def __init__(self) -> None:
        self.signal_name = ""
        for number in STOP_SIGNALS:
            signal.signal(number, self._set)

    def _set(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.signal_name == signal.SIGINT.name:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            raise KeyboardInterrupt
        self.signal_name = signal.Signals(number).name

    def __call__(self) -> bool:
        return bool(self.signal_name)
