"""`python -m dcrafter.evaluation study RUN RUN…`: a blind pairwise user study (paper, table 3), on a page of its own.

Participants see two videos of one case, on sides that chance decides, under addresses that name no run. Each choice is
a line of a JSONL file as it is made; a page that is opened again goes on where it was left.
"""

from __future__ import annotations

import argparse
import itertools
import json
import mimetypes
import re
import secrets
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

import numpy as np

from dcrafter.errors import InputError, UsageError
from dcrafter.media.formats import is_animation
from dcrafter.training.jsonl import append_row, read_rows

PROGRAM = "dcrafter.evaluation study"
QUESTIONS = ("motion_quality", "temporal_coherence")  # one of two is preferred
SELECTION = "input_conformity"  # one, both or none is selected
SIDES = ("left", "right")
LARGEST = 10_000  # bytes of a choice
PAGE = files("dcrafter.evaluation") / "study.html"


@dataclass(frozen=True)
class Trial:
    """Two videos of one case."""

    case: str
    caption: str
    image: Path | None
    videos: tuple[tuple[str, Path], tuple[str, Path]]  # run and file


@dataclass
class Study:
    """Trials, the file of choices, and the addresses under which files are shown."""

    trials: Sequence[Trial]
    choices: Path
    seed: int = 0
    files: dict[str, Path] = field(default_factory=dict)  # by address
    _addresses: dict[Path, str] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        for trial in self.trials:
            for path in (trial.image, *(path for _, path in trial.videos)):
                if path and path not in self._addresses:
                    self._addresses[path] = f"file/{secrets.token_hex(8)}"
        self.files = {address: path for path, address in self._addresses.items()}

    def sides(self, participant: str, number: int) -> list[tuple[str, Path]]:
        """The videos of a trial, left and right, as a participant sees them: always the same."""
        swapped = self._random(participant, number).random() < 0.5
        return [*self.trials[number].videos][:: -1 if swapped else 1]

    def for_participant(self, participant: str) -> list[dict[str, Any]]:
        """The trials that a participant has not answered yet, in an order of their own."""
        answered = {row["trial"] for row in read_choices(self.choices) if row["participant"] == participant}
        order = self._random(participant).permutation(len(self.trials))
        return [self._shown(participant, int(number)) for number in order if int(number) not in answered]

    def _shown(self, participant: str, number: int) -> dict[str, Any]:
        trial = self.trials[number]
        shown: dict[str, Any] = {"id": number, "caption": trial.caption}
        shown["image"] = self._addresses[trial.image] if trial.image else None
        for side, (_, path) in zip(SIDES, self.sides(participant, number), strict=True):
            kind = "img" if is_animation(path) else "video"
            shown[side] = {"address": self._addresses[path], "kind": kind}
        return shown

    def record(self, choice: Any) -> None:
        """Append a choice to the file. Raises ValueError for one that makes no sense, OSError where it cannot."""
        try:
            participant, number = str(choice["participant"])[:100], int(choice["trial"])
            preferred = {question: choice[question] for question in QUESTIONS}
            selected = list(choice[SELECTION])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError("incomplete") from error
        if not 0 <= number < len(self.trials) or not {*preferred.values(), *selected} <= {*SIDES}:
            raise ValueError("no such trial or side")
        runs = {side: run for side, (run, _) in zip(SIDES, self.sides(participant, number), strict=True)}
        row = {"participant": participant, "trial": number, "case": self.trials[number].case, **runs}
        row |= {question: runs[side] for question, side in preferred.items()}
        if self.trials[number].image:  # else there is nothing to conform to
            row[SELECTION] = [runs[side] for side in SIDES if side in selected]
        with self._lock:
            append_row(self.choices, row)

    def _random(self, participant: str, *more: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *more, *participant.encode()])


def make_trials(runs: Mapping[str, Path], count: int | None = None) -> list[Trial]:
    """Every pair of runs for every case that all of them have.

    Raises:
        InputError: a run cannot be read, or there is no such case.
    """
    from dcrafter.evaluation.clips import list_clips

    clips = {run: {clip.name: clip for clip in list_clips(source)} for run, source in runs.items()}
    cases = sorted(set.intersection(*(set(found) for found in clips.values())))[:count]
    if not cases:
        raise InputError("the runs have no case in common", "Clips are paired by the names of their images")
    trials = []
    for case in cases:
        for pair in itertools.combinations(clips, 2):
            one, other = (clips[run][case] for run in pair)
            if not (one.path.is_file() and other.path.is_file()):
                raise InputError(f"{case} is a folder of frames", "A study shows videos and animations")
            videos = ((pair[0], one.path), (pair[1], other.path))
            trials.append(Trial(case, one.caption or other.caption, one.image or other.image, videos))
    return trials


def read_choices(path: Path) -> list[dict[str, Any]]:
    """The choices made so far; of one that was made twice the last."""
    return [*{(row["participant"], row["trial"]): row for row in read_rows(path)}.values()]


def results(choices: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table like the paper's table 3: of the trials that a run was in, how often it was chosen."""
    runs = sorted({row[side] for row in choices for side in SIDES})
    lines = ["| run | motion quality | temporal coherence | input conformity | trials |", "|---|---|---|---|---|"]
    for run in runs:
        own = [row for row in choices if run in (row["left"], row["right"])]
        chosen = [[row[question] == run for row in own] for question in QUESTIONS]
        chosen.append([run in row[SELECTION] for row in own if SELECTION in row])
        shares = (f"{100 * sum(each) / len(each):.1f} %" if each else "–" for each in chosen)
        lines.append(f"| {run} | {' | '.join(shares)} | {len(own)} |")
    people = len({row["participant"] for row in choices})
    return "\n".join([*lines, "", f"{people} participants"])


def serve(study: Study, host: str, port: int) -> ThreadingHTTPServer:
    """A server of the study's page; `serve_forever` runs it. Raises UsageError where the port cannot be had."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            address = url.path.lstrip("/")
            if not address:
                self._answer(PAGE.read_bytes(), "text/html; charset=utf-8")
            elif address == "trials":
                participant = parse_qs(url.query).get("participant", [""])[0][:100]
                self._answer(json.dumps(study.for_participant(participant)).encode(), "application/json")
            elif address in study.files:
                self._send_file(study.files[address])
            else:
                self.send_error(404)

        def do_POST(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            try:
                if self.path != "/choice" or size > LARGEST:
                    raise ValueError("not a choice")
                study.record(json.loads(self.rfile.read(size)))
            except ValueError as error:
                self.send_error(400, str(error))
            except OSError as error:
                self.send_error(500, str(error.strerror))
            else:
                self._answer(b"{}", "application/json")

        def _send_file(self, path: Path) -> None:
            content = path.read_bytes()
            kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if not asked:  # Safari plays nothing that is not sent in ranges
                return self._answer(content, kind)
            first, last = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
            self._answer(content[first : last + 1], kind, 206, f"bytes {first}-{last}/{len(content)}")

        def _answer(self, content: bytes, kind: str, status: Literal[200, 206] = 200, part: str = "") -> None:
            self.send_response(status)
            headers = {"Content-Type": kind, "Content-Length": str(len(content)), "Accept-Ranges": "bytes"}
            for name, value in (headers | ({"Content-Range": part} if part else {})).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None: ...

    try:
        return ThreadingHTTPServer((host, port), Handler)
    except OSError as error:
        raise UsageError(f"cannot listen on {host}:{port} ({error.strerror})", "Choose another --port") from error


def run(argv: Sequence[str]) -> None:
    """Serve a study until Ctrl-C, or print the results of one.

    Raises:
        UsageError: the arguments make no study.
        InputError: videos cannot be read.
        OutputError: the file of choices cannot be written.
    """
    from dcrafter.evaluation.command import check_folders
    from dcrafter.evaluation.videos import SOURCE, named

    parser = argparse.ArgumentParser(prog=f"python -m {PROGRAM}", description="A blind pairwise user study.")
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help=SOURCE)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.jsonl", help="file of choices")
    parser.add_argument("--results", action="store_true", help="print how often each run was chosen, and end")
    parser.add_argument("--count", type=int, metavar="N", help="number of cases, at most")
    parser.add_argument("--seed", type=int, default=0, help="decides orders and sides")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other machines take part")
    parser.add_argument("--port", type=int, default=8000)
    arguments = parser.parse_args(argv)
    if arguments.results:
        if not (choices := read_choices(arguments.output)):
            raise InputError(f"there are no choices in {arguments.output}")
        print(results(choices))
        return
    if len(arguments.runs) < 2:
        raise UsageError("a study compares two runs or more")
    check_folders(arguments.output)
    study = Study(make_trials(named(arguments.runs), arguments.count), arguments.output, arguments.seed)
    with serve(study, arguments.host, arguments.port) as server:
        print(f"{len(study.trials)} trials at http://{arguments.host}:{server.server_port}/", flush=True)
        server.serve_forever()
