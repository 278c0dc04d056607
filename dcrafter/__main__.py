"""`dcrafter`, and `python -m dcrafter`: importing the command line takes time, in which Ctrl-C is to be heard too."""

from __future__ import annotations

import _thread
import io
import os
import sys
import threading
import time
from typing import NoReturn

from dcrafter import interrupts
from dcrafter.errors import INTERRUPTED, UNREAD

AGAIN = 0.01  # seconds until an interrupt that was lost comes again
SPINS = 1000  # rounds, tens of microseconds: alone, the built-in model is up to a tenth slower


def main() -> NoReturn:
    """Run the command line of this process, and exit with its status."""
    started = time.monotonic()
    sys.unraisablehook = _unraisable
    try:
        interrupts.install()
        _share_cores()
        for stream, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
            if getattr(sys, stream) is None:  # closed by whoever began the process
                setattr(sys, stream, open(os.devnull, mode))  # noqa: SIM115  (as long as the process)
        if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.encoding.lower() not in ("utf-8", "utf8"):
            sys.stdout.reconfigure(errors="replace")  # a locale without … still shows its help
        from dcrafter.cli.app import main as run

        run(started=started)
    except KeyboardInterrupt:
        print("dcrafter: interrupted", file=sys.stderr)
        _leave(INTERRUPTED)
    except SystemExit as stop:
        _leave(stop.code if isinstance(stop.code, int) else int(stop.code is not None))


def _share_cores() -> None:
    """Have threads that wait for each other sleep soon.

    GNU's OpenMP, which reads this when PyTorch is loaded, has them spin for milliseconds: where another program has one
    of two cores, a video of the built-in model takes 20 times as long.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))


def _leave(status: int) -> NoReturn:
    """End the process at once: all is written, and unloading torch's libraries takes a second."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            status = status or UNREAD
        except (OSError, ValueError):
            status = status or 1
    os._exit(status)


def _unraisable(lost: sys.UnraisableHookArgs) -> None:
    """An interrupt that came while Python cleaned something up, where exceptions end, comes again a moment later."""
    if isinstance(lost.exc_value, KeyboardInterrupt):
        threading.Timer(AGAIN, _thread.interrupt_main).start()
    else:
        sys.__unraisablehook__(lost)


if __name__ == "__main__":
    main()
