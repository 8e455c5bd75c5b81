"""`python -m reckeeper.cli.supervised MODULE SIGNAL`: a program that ends with its supervisor.

What supervises may be killed, and takes nobody with it then: the program would run on, keep its
port, and be in the way of the next start.
"""

import contextlib
import ctypes
import os
import runpy
import signal
import sys
import threading
import time

_LOOK_SECONDS = 0.5
_PR_SET_PDEATHSIG = 1


def end_with_parent(number: int) -> None:
    """Have this process get a signal as soon as the one that has started it is gone."""
    parent = os.getppid()
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:  # it went before the system was told
            os.kill(os.getpid(), number)
        return
    threading.Thread(target=_watch, args=(parent, number), name="parent", daemon=True).start()


def _watch(parent: int, number: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_SECONDS)
    os.kill(os.getpid(), number)


if __name__ == "__main__":
    module, name = sys.argv.pop(1), sys.argv.pop(1)
    end_with_parent(signal.Signals[name])
    runpy.run_module(module, run_name="__main__", alter_sys=True)
