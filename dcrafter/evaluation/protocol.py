"""`python -m dcrafter.evaluation protocol NAME DATA`: the paper's protocols, ready to generate from and to measure."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from dcrafter.config import MODELS
from dcrafter.evaluation.protocols import BATCH, CLIPS, PROTOCOLS, REAL, protocol_clips, write_protocol

PROGRAM = "dcrafter.evaluation protocol"


def run(argv: Sequence[str]) -> None:
    """Write the manifests of a protocol, and print the commands that follow.

    Raises:
        InputError: the data set is not there.
        OutputError: the folder cannot be written to.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {PROGRAM}", description="Lay out one of the paper's protocols.")
    parser.add_argument("name", choices=[*PROTOCOLS], help="; ".join(each.help for each in PROTOCOLS.values()))
    parser.add_argument("data", type=Path, help="the data set as it is published")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("-m", "--model", default="256", choices=[*MODELS], help="which is to generate")
    parser.add_argument("--count", type=int, default=CLIPS, metavar="N", help="number of clips")
    parser.add_argument("--seed", type=int, default=0, help="decides which clips, and which captions")
    arguments = parser.parse_args(argv)
    clips = protocol_clips(arguments.name, arguments.data, arguments.seed)
    found = write_protocol(clips, arguments.output, MODELS[arguments.model], arguments.count)
    describe(arguments.output, arguments.model, found, arguments.count)


def describe(folder: Path, model: str, found: int, wanted: int) -> None:
    """Print how many clips there are, and what to do with them."""
    print(f"{found} clips" + (f" of {wanted}: no more are long enough" if found < wanted else ""))
    print(f"dcrafter batch {folder / BATCH} -m {model} -o {folder / model}")
    print(f"python -m dcrafter.evaluation videos {folder / model} --data {folder / REAL} -m {model}")
