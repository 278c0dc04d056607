"""`python -m dcrafter.training.annotate CAPTIONS`: annotate motion in captions, for training on it (section 5).

Reads a folder or a manifest with WebVid's columns, leaves out videos that no camera took, asks a language model about
each caption, and writes a manifest that the trainer reads. Answers are kept beside it: a run goes on where it was left.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import itertools
import json
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dcrafter.errors import InputError, OutputError, UsageError, exit_on_error
from dcrafter.training.annotation import GENERATED, VERSION, is_generated, parse_answer, prompt_for
from dcrafter.training.jsonl import append_row, read_rows
from dcrafter.training.language_model import KEY, LanguageModel, open_endpoint, open_local
from dcrafter.training.videos import file_and_caption, video_rows

PROGRAM = "dcrafter.training.annotate"
COLUMNS = ("dynamic_confidence", "dynamic_wording", "dynamic_source_category")
BECAME = {
    "annotated": "annotated",
    "unclear": "with an unclear answer",
    "generated": "left out as no camera took them",
}
ALIGNMENT = "clip_similarity"
AT_ONCE = 256  # captions in work; nothing grows with their number
FRAMES = 4  # of a video, that its caption is compared with

Alignment = Callable[[Path, str], "float | None"]
"""A video's file and its caption → their CLIP similarity; None where the video cannot be read."""


class Answers:
    """A language model's answers by caption, in a JSONL file that is appended to."""

    def __init__(self, path: Path, model: str) -> None:
        """Read the answers that are there."""
        self.path, self.model = path, model
        self.known = {str(row["key"]): str(row["answer"]) for row in read_rows(path)}

    def __contains__(self, caption: str) -> bool:
        return self._key(caption) in self.known

    def __getitem__(self, caption: str) -> str:
        return self.known[self._key(caption)]

    def __setitem__(self, caption: str, answer: str) -> None:
        self.known[self._key(caption)] = answer
        append_row(self.path, {"key": self._key(caption), "answer": answer})

    def _key(self, caption: str) -> str:
        return hashlib.sha256(f"{VERSION}\n{self.model}\n{caption}".encode()).hexdigest()


def annotate(
    rows: Iterable[tuple[str, dict[str, Any]]],
    folder: Path,
    ask: LanguageModel,
    answers: Answers,
    *,
    generated: Collection[str] = GENERATED,
    align: Alignment | None = None,
    workers: int = 8,
    counts: Counter[str] | None = None,
) -> Iterator[dict[str, Any]]:
    """Annotate videos, in their order.

    Args:
        rows: of `video_rows`.
        folder: what their files are relative to.
        ask: the language model.
        answers: those that are known, and where new ones are kept.
        generated: words that leave a video out.
        align: compares captions with videos.
        workers: how many captions are asked about at once.
        counts: counts what became of videos: annotated, generated or unclear.

    Yields:
        The row, with `path` absolute, `caption` and the annotations, blank where the answer was unclear.

    Raises:
        InputError: a row has no file or no caption.
        UsageError: the language model gives no answers.
    """
    counts = Counter() if counts is None else counts
    remaining = iter(rows)
    with ThreadPoolExecutor(workers) as pool:
        while some := list(itertools.islice(remaining, AT_ONCE)):
            kept = []
            for where, row in some:
                file, caption = file_and_caption(where, row, folder)
                if is_generated(caption, generated):
                    counts["generated"] += 1
                else:
                    kept.append(row | {"path": str(file.absolute()), "caption": caption})
            missing = [caption for caption in dict.fromkeys(row["caption"] for row in kept) if caption not in answers]
            for caption, answer in zip(missing, pool.map(ask, map(prompt_for, missing)), strict=True):
                answers[caption] = answer
            for row in kept:
                found = _annotation(answers[row["caption"]])
                counts["annotated" if found["dynamic_confidence"] != "" else "unclear"] += 1
                similarity = {ALIGNMENT: align(Path(row["path"]), row["caption"])} if align else {}
                yield row | found | similarity


def _annotation(answer: str) -> dict[str, Any]:
    try:
        return asdict(parse_answer(answer))
    except ValueError:
        return dict.fromkeys(COLUMNS, "")


def write_manifest(rows: Iterable[dict[str, Any]], path: Path) -> int:
    """Write rows as CSV or JSONL, by the suffix, and return how many; the file appears when it is whole.

    Raises:
        OutputError: it cannot be written.
    """
    part, number = path.with_name(path.name + ".part"), 0
    try:
        with part.open("w", encoding="utf-8", newline="") as file:
            table: csv.DictWriter[str] | None = None
            for number, row in enumerate(rows, 1):  # noqa: B007
                if path.suffix.lower() == ".jsonl":
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
                    continue
                if table is None:
                    table = csv.DictWriter(file, [*row], extrasaction="ignore")
                    table.writeheader()
                table.writerow(row)
        part.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {path} ({error.strerror})") from error
    return number


def clip_alignment(model: str, device: str, *, offline: bool) -> Alignment:
    """The similarity of a caption and some frames of its video, by a model's CLIP towers."""
    from dcrafter.metrics.clip_similarity import text_similarity
    from dcrafter.training.alignment import Towers, some_frames

    towers = Towers.of_model(model, device=device, offline=offline)

    def align(file: Path, caption: str) -> float | None:
        frames = some_frames(file, FRAMES)
        if frames is None:
            return None
        return round(text_similarity(towers.embed_frames(frames), towers.embed_text(caption)), 4)

    return align


def run(argv: Sequence[str] | None = None) -> None:
    """Annotate as the arguments say; what became of the videos goes to stderr.

    Raises:
        UsageError: the language model gives no answers.
        InputError: the captions cannot be read.
        OutputError: a file cannot be written.
        WeightsError: a model cannot be loaded.
    """
    arguments = _parser().parse_args(argv)
    if arguments.output.suffix.lower() not in (".csv", ".jsonl"):
        raise UsageError(f"{arguments.output} is neither CSV nor JSONL", "Name it .csv or .jsonl")
    answers = Answers(arguments.output.with_suffix(".answers.jsonl"), arguments.model)
    if arguments.endpoint:
        ask = open_endpoint(arguments.endpoint, arguments.model)
    else:
        ask = open_local(arguments.model, arguments.device, offline=arguments.offline)
    align = arguments.align and clip_alignment(arguments.align, arguments.device, offline=arguments.offline)
    generated = GENERATED if arguments.generated is None else [word for word in arguments.generated.split(",") if word]
    counts: Counter[str] = Counter()
    source = arguments.captions
    rows = annotate(
        video_rows(source),
        source if source.is_dir() else source.parent,
        ask,
        answers,
        generated=generated,
        align=align,
        workers=arguments.workers if arguments.endpoint else 1,
        counts=counts,
    )
    if not write_manifest(rows, arguments.output):
        raise InputError(f"{source} has no videos that are to be annotated")
    print(", ".join(f"{counts[name]} {text}" for name, text in BECAME.items()), file=sys.stderr)
    print(arguments.output)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m {PROGRAM}", description="Annotate motion in captions.")
    parser.add_argument("captions", type=Path, help="a folder of videos, or a CSV or JSONL manifest")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.csv", help="or FILE.jsonl")
    parser.add_argument("--model", required=True, help="a language model: of the endpoint, or of transformers")
    parser.add_argument("--endpoint", metavar="URL", help=f"with OpenAI's interface, as http://…/v1; key: ${KEY}")
    parser.add_argument("--workers", type=int, default=8, metavar="N", help="number of requests at once")
    parser.add_argument("--generated", metavar="WORD,WORD", help="words of captions whose videos are left out")
    parser.add_argument("--align", metavar="MODEL", help="compare captions with videos by this model's CLIP towers")
    parser.add_argument("--device", default="cpu", help="of models on this machine")
    parser.add_argument("--offline", action="store_true", help="download nothing")
    return parser


if __name__ == "__main__":
    with exit_on_error(PROGRAM):
        run()
