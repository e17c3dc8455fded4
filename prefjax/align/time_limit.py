"""Calls functions that somebody else wrote, and does not wait for them for ever."""

import asyncio
import faulthandler
import functools
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

T = TypeVar("T")


class Late(Exception):
    """A function was not done in time; `stack` is where it stood, outermost call first."""

    def __init__(self, stack: traceback.StackSummary):
        super().__init__("not done in time")
        self.stack = stack


class _Alarm(BaseException):
    """Raised inside the late function. Not an Exception, which such functions tend to catch and go on from."""


def call_within(seconds: int | float, call: Callable[[], T]) -> T:
    """`call()`, interrupted after so many seconds; 0 is no limit.

    In the main thread a timer (SIGALRM) interrupts whatever comes back to the interpreter now and then: loops,
    sleeping, waiting for a network, and also a regular expression that backtracks without end. A function that sets
    SIGALRM timers of its own (math-verify does, and so works in the main thread only) takes this one away. In any
    other thread the call runs in a thread of its own, which after the limit is abandoned, not stopped.

    What neither reaches is native code that keeps the interpreter to itself, and code that catches everything and
    goes on. For them there is a last resort: after twice the limit (5 s more, if that is longer) the process ends
    with exit status 1, and a traceback of every thread on stderr says who it was.

    Raises: Late; whatever `call` raises.
    """
    if not seconds:
        return call()
    in_main = threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer")
    with _last_resort(seconds):
        return _with_alarm(seconds, call) if in_main else _in_thread(seconds, call)


def await_all(calls: Sequence[Callable[[], Coroutine]], seconds: int | float) -> list[Any]:
    """The results of coroutine functions that run at the same time, each with an exception in place of its result
    if it raised one: `Late` if it took longer than `seconds` (0: no limit).

    They run in one event loop that stays, in a thread of its own, so that what they keep open (a connection to a
    server) works again the next time. A late one is cancelled; one that blocks the loop instead of awaiting is not.
    """
    if not calls:
        return []
    loop, thread = _event_loop()
    coroutines = [call() for call in calls]
    futures = [asyncio.run_coroutine_threadsafe(coroutine, loop) for coroutine in coroutines]
    deadline = time.monotonic() + seconds
    results: list[Any] = []
    with _last_resort(seconds):
        for coroutine, future in zip(coroutines, futures, strict=True):
            try:
                results.append(future.result(max(deadline - time.monotonic(), 0) if seconds else None))
            except Exception as error:
                late = not future.done()
                results.append(Late(_where_it_waits(coroutine) or _where_it_runs(thread)) if late else error)
                future.cancel()
    return results


def _with_alarm(seconds: int | float, call: Callable[[], T]) -> T:
    rang: list[traceback.StackSummary] = []

    def ring(_number: int, frame: Any) -> None:
        rang.append(traceback.extract_stack(frame))
        raise _Alarm

    handler = signal.signal(signal.SIGALRM, ring)
    started = time.monotonic()
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        result = call()
    except BaseException:
        if not rang:
            raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler or signal.SIG_DFL)
        if left:  # somebody else's timer goes on from where it was
            signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - started), 1e-3), interval)
    if rang:  # also when the function caught the alarm and answered: with what, nobody knows
        raise Late(rang[0])
    return result


def _in_thread(seconds: int | float, call: Callable[[], T]) -> T:
    results: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(call())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True, name="prefjax-limited")
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise Late(_where_it_runs(thread))
    if errors:
        raise errors[0]
    return results[0]


@contextmanager
def _last_resort(seconds: int | float) -> Iterator[None]:
    """Ends the process if the body takes far too long. A C thread sees to it, which does not need the interpreter."""
    if seconds:
        with suppress(
            ValueError, OSError, AttributeError, RuntimeError
        ):  # no stderr that is a file: without it
            stderr = sys.__stderr__ or sys.stderr
            faulthandler.dump_traceback_later(max(2 * seconds, seconds + 5), exit=True, file=stderr)
    try:
        yield
    finally:
        if seconds:
            faulthandler.cancel_dump_traceback_later()


@functools.cache
def _event_loop() -> tuple[asyncio.AbstractEventLoop, threading.Thread]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True, name="prefjax-coroutines")
    thread.start()
    return loop, thread


def _where_it_runs(thread: threading.Thread) -> traceback.StackSummary:
    frame = sys._current_frames().get(thread.ident or -1)
    return traceback.extract_stack(frame) if frame is not None else traceback.StackSummary()


def _where_it_waits(coroutine: Any) -> traceback.StackSummary:
    """Empty while it runs."""
    frames = []
    while getattr(coroutine, "cr_await", None) is not None:
        frames.append((coroutine.cr_frame, coroutine.cr_frame.f_lineno))
        coroutine = coroutine.cr_await
    return traceback.StackSummary.extract(iter(frames))
