"""Downloads that are cut, killed and corrupted at random places, against a hub on this machine.

    python tests/benchmarks/download_cuts.py [CUTS] [MEGABYTES] [FOLDER]

Fetches a file of random bytes (by default 200 cuts of 32 MB) over and over, with huggingface_hub's real client: the
connection ends at a random byte (a third of them with a reset), the process that downloads is killed with SIGKILL at
a random byte, or one bit is changed on the way. After each, a run in this process completes the file; its SHA-256
must be right, only the missing bytes may have been fetched, and nothing else may be left. As root on Linux a file
system that is too small is tried as well. Prints a line a kind; exit status 1 if anything is wrong.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from weights.hub_server import Corrupt, Cut, Hub, serving

from dcrafter.errors import WeightsError
from dcrafter.weights.download import download, look_up

REPOSITORY, FILE = "someone/model", "model.ckpt"
KILLED = """
import os, signal, sys
from pathlib import Path
from dcrafter.weights.download import download, look_up
for step in download(look_up("someone/model", "model.ckpt"), Path(sys.argv[1])):
    if step.phase == "downloading" and step.done >= int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
"""


def fetch(part: Path) -> None:
    for _ in download(look_up(REPOSITORY, FILE), part, sleep=lambda _: None):
        pass


def bytes_sent(hub: Hub, size: int) -> int:
    """How many bytes the answers to all requests for the file would have had, uncut."""
    starts = [int((each.range or "bytes=0-")[6:-1]) for each in hub.asked("GET", "/storage/")]
    return sum(size - start for start in starts)


def main() -> None:
    cuts, megabytes = (int(sys.argv[i]) if len(sys.argv) > i else default for i, default in ((1, 200), (2, 32)))
    draw = random.Random(0)
    content = draw.randbytes(megabytes * 1_000_000)
    digest = hashlib.sha256(content).hexdigest()
    wrong = 0
    with serving() as hub, tempfile.TemporaryDirectory(dir=sys.argv[3] if len(sys.argv) > 3 else None) as folder:
        os.environ |= {"HF_ENDPOINT": hub.endpoint, "HF_HOME": folder + "/huggingface"}
        hub.files[f"{REPOSITORY}/{FILE}"] = content
        place = Path(folder) / "files"
        place.mkdir()
        part = place / "model.part"
        kinds = {"cut": 0.0, "reset": 0.0, "killed": 0.0, "corrupted": 0.0}
        counts = dict.fromkeys(kinds, 0)
        for i in range(cuts):
            kind = ("cut", "reset", "cut", "killed", "reset", "cut", "killed", "corrupted")[i % 8]
            at = draw.randrange(len(content))
            hub.requests.clear()
            started = time.perf_counter()
            if kind == "killed":
                done = subprocess.run([sys.executable, "-c", KILLED, str(part), str(at)])
                assert done.returncode == -signal.SIGKILL
                come = part.stat().st_size
            else:
                hub.faults.append(Corrupt(at) if kind == "corrupted" else Cut(at, reset=kind == "reset"))
                come = None
            fetch(part)
            requests = hub.asked("GET", "/storage/")
            good = hashlib.sha256(part.read_bytes()).hexdigest() == digest and len(list(place.iterdir())) == 1
            good &= len(requests) == 2 or (kind == "killed" and come == len(content))
            if kind in ("cut", "killed"):
                good &= bytes_sent(hub, len(content)) == 2 * len(content) - (at if come is None else come)
            if not good:
                wrong += 1
                print(f"WRONG: {kind} at byte {at}: {[each.range for each in requests]}")
            kinds[kind] += time.perf_counter() - started
            counts[kind] += 1
            part.unlink()
        for kind, seconds in kinds.items():
            if counts[kind]:
                print(f"{counts[kind]} {kind}: {seconds / counts[kind]:.2f} s each, with the completion")
        if sys.platform == "linux" and os.geteuid() == 0:
            wrong += not full_disk(Path(folder), len(content), digest)
    print(f"{cuts} faults at random bytes of {megabytes} MB, {wrong} wrong")
    sys.exit(wrong > 0)


def full_disk(folder: Path, size: int, digest: str) -> bool:
    """A file system with half the room: a clear message, and once there is room the download goes on."""
    disk = folder / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size // 2}", "tmpfs", disk], capture_output=True
    ).returncode:
        print("full disk: not tried, nothing can be mounted here")
        return True
    try:
        try:
            fetch(disk / "model.part")
        except WeightsError as error:
            print(f"full disk: {error}")
        come = (disk / "model.part").stat().st_size
        subprocess.run(["mount", "-o", f"remount,size={2 * size}", disk], check=True)
        fetch(disk / "model.part")
        good = 0 < come < size and hashlib.sha256((disk / "model.part").read_bytes()).hexdigest() == digest
        print(f"full disk: {come} bytes were kept, and completed with room made" if good else "WRONG: full disk")
        return good
    finally:
        subprocess.run(["umount", disk], check=True)


if __name__ == "__main__":
    main()
