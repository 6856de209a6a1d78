"""Two processes drive a run: the one that was started takes the signals and has the last word; its
child loads Ray.

While Ray's core connects and disconnects it replaces the handler of SIGTERM by one that ends the
process, and holds the interpreter for a second: a request to stop that came then was lost with the
process. The parent never loads Ray, so it can always answer. The child leads a session of its own,
in which Ray's processes of this machine are: whichever of the two ends last ends that session.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NoReturn

from orchestrator.errors import OrchestratorError
from orchestrator.store import RunDir

__all__ = ["Fate", "interrupts", "supervise"]

# After a signal: how long the child has while nothing has started yet or all is over, after a
# second signal, and at most (its workers save their state, which takes what it takes).
IDLE_S = 1.0
ENDING_S = 5.0
URGENT_S = 5.0
LONGEST_S = 100.0
_POLL_S = 0.1
_STOPPING = "stopping: the workers save their state (once more: at once)"


@dataclass(frozen=True)
class Fate:
    """How the child ended: what it raised, or the exit code that says that it crashed (negative:
    the number of a signal), 0 where it did its work.
    """

    error: OrchestratorError | None
    code: int


@contextlib.contextmanager
def interrupts() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM instead of ending the process; not outside the main thread."""
    seen: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield seen
        return
    both = (signal.SIGINT, signal.SIGTERM)
    previous = {n: signal.signal(n, lambda number, _: seen.append(number)) for n in both}
    try:
        yield seen
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def supervise(
    work: Callable[[threading.Event], None],
    run_dir: RunDir,
    signals: list[int],
) -> Fate:
    """Do `work` in a child process until it is done, or until signals came and their time is up.

    A first signal asks the run to stop. A second one sets the event that `work` is given: it must
    not wait for its workers any longer. A child that takes too long is killed.
    """
    control, control_end = os.pipe()
    words, words_end = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():
        # Python 3.12 warns where there are threads, such as those of BLAS: the child uses none.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        os.close(control_end)
        os.close(words)
        _child(work, control, words_end)
    os.close(control)
    os.close(words_end)
    try:
        return _wait(pid, words, control_end, run_dir, signals)
    except BaseException:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            _end_session(pid)
            os.waitpid(pid, 0)
        raise
    finally:
        os.close(control_end)
        os.close(words)


def _wait(
    pid: int,
    words: int,
    control: int,
    run_dir: RunDir,
    signals: list[int],
) -> Fate:
    said = b""
    asked = urgent = None
    while True:
        # Its end is the end of the pipe as well, which nobody else holds.
        if select.select([words], [], [], _POLL_S)[0]:
            part = os.read(words, 1 << 16)
            if not part:
                break
            said += part
        now = time.monotonic()
        if signals and asked is None:
            asked = now
            print(_STOPPING, file=sys.stderr, flush=True)  # noqa: T201
            with contextlib.suppress(OSError):  # a full disk; the workers are not waited for then
                run_dir.request_stop()
        if len(signals) > 1 and urgent is None:
            urgent = now
            with contextlib.suppress(BrokenPipeError):
                os.write(control, b"!")
        if asked is not None and now - (urgent or asked) > _patience_s(run_dir, urgent is not None):
            os.kill(pid, signal.SIGKILL)  # a child of ours stays killable until it is waited for
    _end_session(pid)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return Fate(pickle.loads(said) if said else None, code)


def _patience_s(run_dir: RunDir, urgent: bool) -> float:
    """How long after a signal the child may go on."""
    status = run_dir.status()
    if status.status == "PENDING":  # no attempt has begun: there is nothing to save
        return IDLE_S
    if status.terminal:
        return ENDING_S
    return URGENT_S if urgent else LONGEST_S


def _child(work: Callable[[threading.Event], None], control: int, words: int) -> NoReturn:
    """Body of the child; it must never return into the parent's frames."""
    code = 1
    try:
        os.setsid()  # Ctrl-C in a terminal goes to the parent alone
        at_once = threading.Event()
        threading.Thread(target=_listen, args=(control, at_once), daemon=True).start()
        try:
            work(at_once)
            code = 0
        except OrchestratorError as error:
            os.write(words, pickle.dumps(error))
            code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _listen(control: int, at_once: threading.Event) -> None:
    while os.read(control, 1):
        at_once.set()
    _end_session(os.getpid())  # the parent is gone
    os._exit(1)


def _end_session(leader: int) -> None:
    """SIGKILL what is left in the session but its leader: agents of a killed raylet, above all,
    which take up to a minute to notice.
    """
    for _ in range(5):  # one may start another in between
        found = False
        for name in os.listdir("/proc") if sys.platform == "linux" else ():
            with contextlib.suppress(ValueError, ProcessLookupError, PermissionError):
                if os.getsid(pid := int(name)) == leader and pid != leader and not _ended(pid):
                    os.kill(pid, signal.SIGKILL)
                    found = True
        if not found:
            return
        time.sleep(_POLL_S)


def _ended(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True
