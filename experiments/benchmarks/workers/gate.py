"""Somebody else's training loop, one step at a time."""

import threading
from collections.abc import Callable


class Gate:
    """The loop runs in a thread and calls `wait` before each step; `step` lets it through, and out again.

    A step ends when the loop comes to wait for the next: whatever the trainer does in between is in it.
    """

    def __init__(self, loop: Callable[[], object]):
        self._opened, self._reached = threading.Semaphore(0), threading.Semaphore(0)
        self._error: BaseException | None = None

        def run() -> None:
            try:
                loop()
            except BaseException as error:
                self._error = error
            self._reached.release()

        # A daemon: the process need not take all the steps that the loop was promised.
        self._thread = threading.Thread(target=run, daemon=True)

    def wait(self) -> None:
        """Called by the loop."""
        self._reached.release()
        self._opened.acquire()

    def start(self) -> None:
        """Returns when the loop waits before its first step."""
        self._thread.start()
        self._arrived()

    def step(self) -> None:
        self._opened.release()
        self._arrived()

    def _arrived(self) -> None:
        self._reached.acquire()
        if self._error is not None:
            raise self._error
