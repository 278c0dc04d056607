"""A batch killed at random moments until it is done: python tests/benchmarks/batch_kills.py [ITEMS [KILLS]] [-- MODEL…]

200 items and 50 moments by default, by each of the signals below, and on a disk that fills up: a tmpfs, for which the
benchmark runs in a mount namespace of its own (Linux, with util-linux). What comes out must be what an uninterrupted
run gives.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parents[1]))

from batch.killing import FURTHER, Arguments, finish, largest, same, start, stop
from batch_cases import arguments, cut_pictures

from dcrafter.batch.journal import Record, read_journals

UNSHARED = "DCRAFTER_BENCHMARK_UNSHARED"  # set within the namespace


def fill(command: Arguments, folder: Path, moments: random.Random, video: int) -> dict[str, Record]:
    """The journal of a batch whose disk had room for up to four videos more, and was full unless all were made."""
    disk = folder / "out"
    before = os.statvfs(disk)
    _resize(disk, (before.f_blocks - before.f_bfree) * before.f_frsize + int(moments.uniform(1, FURTHER) * video))
    process = start(command, folder)
    process.join()
    after = os.statvfs(disk)
    if process.exitcode != 0:
        assert process.exitcode == 1, process.exitcode
        assert after.f_bfree * after.f_frsize < 2 * video  # one, its copy under another name, and lines of the journal
    assert not list(disk.glob(".*"))
    return read_journals(disk)


def _resize(disk: Path, size: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", disk], check=True)


def main() -> None:
    if UNSHARED not in os.environ:
        os.environ[UNSHARED] = "1"
        os.execvp("unshare", ["unshare", "--map-root-user", "--mount", sys.executable, *sys.argv])
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background, by what is started too
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # and this under nohup
    numbers, model = arguments()
    items, kills = (*numbers, *(200, 50)[len(numbers) :])
    with TemporaryDirectory() as name:
        folder = Path(name)
        command: Arguments = [
            "batch", cut_pictures(folder / "in", items), "-p", "a cat", *model, "-f", "apng", "-q", "-o", "out",
        ]  # fmt: skip
        (folder / "whole").mkdir()
        start(["--version"], folder).join()  # the server is warm
        began = time.monotonic()
        expected = finish(command, folder / "whole")
        assert len(expected) == items
        print(f"{items} items in {time.monotonic() - began:.1f} s without a stop")
        video = largest(folder / "whole" / "out")
        signals = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGSTOP)
        for by in (*signals, "full disk"):
            title = by if isinstance(by, str) else by.name
            parts = folder / title
            (parts / "out").mkdir(parents=True)
            moments, came = random.Random(0), []
            if isinstance(by, str):
                subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={video}", "none", parts / "out"], check=True)
            for _ in range(kills):
                made = (
                    fill(command, parts, moments, video) if isinstance(by, str) else stop(command, parts, by, moments)
                )
                assert same(made, expected)
                came.append(len(made))
                if len(made) == items:
                    break
            if isinstance(by, str):
                assert 0 < came[0] < items, "the disk was never full"
                _resize(parts / "out", 2 * items * video)
            made = finish(command, parts)
            if isinstance(by, str):
                subprocess.run(["umount", parts / "out"], check=True)
            assert made.keys() == expected.keys()
            assert same(made, expected)
            print(
                f"{title} at {len(came)} moments, items done at each: {came}; then run to the end: all {items} the same"
            )


if __name__ == "__main__":
    main()
