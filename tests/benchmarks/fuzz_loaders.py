"""Damaged files against every loader: python tests/benchmarks/fuzz_loaders.py [--cases 20000] [--only NAME …]

Each loader's good files are damaged (bits flipped, cut, numbers grown; see tests/fuzzing.py) and loaded in process.
What may come of it is the file loaded, or one of this package's errors, within MAX_SECONDS of the processor's time
(on a busy machine the clock says little) and MAX_MEMORY above the start; the rest is listed with the seed that makes
it again, and the exit status is then 1. Needs Linux.

To add a loader, add a line to LOADERS: its good files, made in an empty folder, and a function that loads one.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from fuzzing import mutate
from safetensors.torch import load_file, save_file

from dcrafter.errors import DCrafterError
from dcrafter.settings import WriteOptions

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
MAX_SECONDS = 10
MAX_WAIT = 120  # seconds by the clock
MAX_MEMORY = 300e6
CASES = 20_000
SHOWN = 10


@dataclass(frozen=True)
class Loader:
    """What is attacked: `make` writes good files into a folder, `load` reads one file."""

    make: Callable[[Path], list[Path]]
    load: Callable[[Path], object]


# --- loaders ---


def load_checkpoint(path: Path) -> None:
    """As the pipeline does: open, build the structure, compare, load the smallest component."""
    from dcrafter.models.dynamicrafter import DynamiCrafter
    from dcrafter.weights.checkpoint import open_checkpoint

    opened = open_checkpoint(path)
    model = DynamiCrafter.on_meta(opened.config)
    opened.check(model)
    for _ in opened.load(model, "projector", device=torch.device("cpu"), dtype=torch.float32):
        pass


def load_tree(path: Path) -> None:
    from dcrafter.weights.checkpoint import open_checkpoint

    open_checkpoint(GOLDEN / "dc512" / "model.safetensors", model_config=path)


def load_settings(path: Path) -> None:
    from dcrafter.media.video import read_settings

    read_settings(path)


def make_safetensors(folder: Path) -> list[Path]:
    """A published one's header in front of few values, and one of our own."""
    from dcrafter.weights.checkpoint import open_checkpoint, save_checkpoint

    published = load_file(GOLDEN / "dc512" / "model.safetensors")
    save_file({key: value.reshape(-1)[:1].clone() for key, value in published.items()}, folder / "few.safetensors")
    tree = GOLDEN / "dc512" / "config.json"
    opened = open_checkpoint(GOLDEN / "dc512" / "model.safetensors", model_config=tree)
    save_checkpoint(opened.tensors, opened.config, folder / "ours.safetensors")
    return [folder / "few.safetensors", folder / "ours.safetensors"]


def make_ckpt(folder: Path) -> list[Path]:
    tensors = {f"model.diffusion_model.{i}.weight": torch.ones(i + 1, 2) for i in range(8)}
    content = {"state_dict": tensors, "epoch": 1, "callbacks": {"a": [1, 2.5, None, "text"]}}
    torch.save(content, folder / "zip.ckpt")
    torch.save(content, folder / "legacy.ckpt", _use_new_zipfile_serialization=False)
    return [folder / "zip.ckpt", folder / "legacy.ckpt"]


def make_trees(folder: Path) -> list[Path]:
    import yaml

    tree = json.loads((GOLDEN / "dc512" / "config.json").read_text())
    (folder / "tree.yaml").write_text(yaml.safe_dump(tree))
    (folder / "flow.yaml").write_text("base: &base {a: 1}\nmore: {<<: *base}\n" + yaml.safe_dump(tree))
    (folder / "tree.json").write_text(json.dumps(tree))
    return [folder / "tree.yaml", folder / "flow.yaml", folder / "tree.json"]


def make_videos(folder: Path) -> list[Path]:
    import numpy as np

    from dcrafter.media.video import encode_video

    frames = np.random.default_rng(0).integers(0, 255, (2, 16, 16, 3), dtype=np.uint8)
    settings = {"command": "animate", "model": "tiny", "sampler": "ddim", "seed": 1, "images": ["cat.png"], "steps": 4}
    paths = []
    for name in ("mp4", "webm", "gif", "webp", "apng"):
        paths.append(folder / f"video.{'png' if name == 'apng' else name}")
        paths[-1].write_bytes(encode_video(frames, WriteOptions(name), fps=8, settings=settings))
    return paths


def make_images(folder: Path) -> list[Path]:
    """Each format, with the metadata that loading reads."""
    import numpy as np
    from PIL import Image, ImageCms

    pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 4), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    more = {"exif": exif, "icc_profile": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()}
    image = Image.fromarray(pixels)
    deep = pixels[..., 0].astype(np.uint16) * 257
    image.save(folder / "clear.png", **more)
    Image.fromarray(deep).save(folder / "deep.png")
    image.convert("RGB").save(folder / "photo.jpg", **more)
    image.convert("RGB").save(folder / "slow.jpg", progressive=True, **more)
    image.convert("CMYK").save(folder / "print.jpg")
    image.save(folder / "clear.webp", **more)
    image.convert("RGB").save(folder / "photo.avif")
    image.convert("P").save(folder / "few.gif", save_all=True, append_images=[image.convert("P")])
    image.convert("RGB").save(folder / "pair.mpo", "MPO", save_all=True, append_images=[image.convert("RGB")])
    with suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
        image.save(folder / "phone.heic")
    image.convert("RGB").save(folder / "plain.bmp")
    image.convert("RGB").save(folder / "plain.ppm")
    for name, shown in (("deep", deep), ("float", deep.astype(np.float32)), ("clear", pixels)):
        Image.fromarray(shown).save(folder / f"{name}.tif", compression="tiff_adobe_deflate")
    return sorted(folder.iterdir())


def load_image(path: Path) -> None:
    from dcrafter.media.image import fit_image, open_image

    fit_image(open_image(path), 128, 128)


def make_journals(folder: Path) -> list[Path]:
    """A batch's journal beside one of its outputs."""
    from dcrafter.batch.journal import Journal, Record

    journal = Journal(folder / "batch.jsonl")
    for i in range(4):
        name, status = f"cat{i}.mp4", "failed" if i == 3 else "done"
        settings = {"steps": 15, "prompt": "a cat yawns", "context_scale": [1.0, 0.8], "eta": None}
        journal.append(
            Record(f"cat{i}.png", 1, status, name, f"/in/cat{i}.png", ["a" * 64], settings, output_hash="b" * 64)
        )
    return [journal.path]


def load_journal(path: Path) -> None:
    """As a batch that goes on: read, rank, and add to."""
    from dcrafter.batch.journal import Journal, read_journals, read_records

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "batch.jsonl").write_bytes(path.read_bytes())
        read_records(folder)
        journal = Journal(folder / "batch.jsonl")
        journal.read()
        for record in read_journals(folder).values():
            journal.append(record)


def make_manifests(folder: Path) -> list[Path]:
    rows = [
        {"image": "cat.png", "prompt": "a cat yawns", "steps": 50, "motion": "high", "context-scale": "7-9:0.8"},
        {"image": ["1.png", "2.png"], "mode": "interpolate", "seed": 3, "guidance": 7.5, "name": "{stem}_{index:03}"},
    ]
    lines = "image,image2,mode,prompt,steps,eta\ncat.png,,animate,a cat yawns,50,1\n1.png,2.png,interpolate,,,0.5\n"
    texts = {
        "list.csv": lines,
        "list.tsv": lines.replace(",", "\t"),
        "list.jsonl": "\n".join(map(json.dumps, rows)),
        "list.json": json.dumps(rows),
        "paths.txt": "cat.png\n1.png\nhttps://example.org/2.png\n",
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    return [folder / name for name in texts]


def load_manifest(path: Path) -> None:
    """Up to the items: named, numbered, with the options of each settled."""
    from dcrafter.batch.inputs import Search
    from dcrafter.batch.items import Defaults, make_items
    from dcrafter.config import MODELS
    from dcrafter.settings import resolve

    for item in make_items(Search().find([str(path)]).entries, Defaults()):
        with suppress(DCrafterError):  # a row's own problem
            resolve(MODELS["512"], item.command, item.prompt, item.seed, item.options)


LOADERS = {
    "safetensors": Loader(make_safetensors, load_checkpoint),
    "ckpt": Loader(make_ckpt, load_checkpoint),
    "trees": Loader(make_trees, load_tree),
    "settings": Loader(make_videos, load_settings),
    "images": Loader(make_images, load_image),
    "journals": Loader(make_journals, load_journal),
    "manifests": Loader(make_manifests, load_manifest),
}


# --- the run ---


class TooSlowError(BaseException):
    """No `except Exception` in a loader takes it for its own."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TooSlowError

    signal.signal(signal.SIGPROF, stop)
    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, MAX_WAIT)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)


def memory(field: str) -> float:
    """Of this process, in bytes: VmRSS, or VmHWM for the peak since `reset_peak`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def outcome(loader: Loader, path: Path) -> str:
    """What became of a file: in the beginning of the word, whether that is as it should be."""
    reset_peak()
    before = memory("VmRSS")
    try:
        with limited(MAX_SECONDS), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loader.load(path)
        said = "loaded"
    except DCrafterError as error:
        said = f"refused: {type(error).__name__}, exit status {error.exit_status}"
        if not error.message.isprintable():
            said = "BAD: an error that cannot be printed"
    except TooSlowError:
        said = f"BAD: more than {MAX_SECONDS} s"
    except Exception as error:
        said = f"BAD: {type(error).__name__}: {str(error)[:80]!r}"
    if memory("VmHWM") - before > MAX_MEMORY:
        said = f"BAD: {(memory('VmHWM') - before) / 1e6:.0f} MB above the start ({said})"
    return said


def run(name: str, loader: Loader, cases: int, first_seed: int) -> bool:
    """Counts the outcomes of one loader; whether all were as they should be."""
    counts: Counter[str] = Counter()
    bad: list[str] = []
    slowest, start = 0.0, time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        good = loader.make(Path(folder))
        contents = [path.read_bytes() for path in good]
        for path in good:
            if (said := outcome(loader, path)).startswith("BAD"):
                bad.append(f"{path.name}, undamaged: {said}")
        for seed in range(first_seed, first_seed + cases):
            which = seed % len(good)
            path = Path(folder) / f"damaged{good[which].suffix}"
            path.write_bytes(mutate(contents[which], seed))
            begun = time.process_time()
            said = outcome(loader, path)
            slowest = max(slowest, time.process_time() - begun)
            counts[said.partition(" (")[0] if said.startswith("BAD") else said] += 1
            if said.startswith("BAD"):
                bad.append(f"{good[which].name}, seed {seed}: {said}")
    print(f"{name}: {cases} cases in {time.perf_counter() - start:.0f} s, the slowest {slowest:.2f} s of processor")
    for said, count in counts.most_common(SHOWN):
        print(f"  {count:6d}  {said}")
    for line in bad[:SHOWN]:
        print(f"  !! {line}")
    sys.stdout.flush()
    return not bad


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=CASES, help="all loaders together")
    parser.add_argument("--seed", type=int, default=0, help="of the first case of each loader")
    parser.add_argument("--only", nargs="+", choices=LOADERS, default=list(LOADERS))
    arguments = parser.parse_args()
    logging.disable()
    os.environ["DCRAFTER_CACHE_DIR"] = tempfile.gettempdir()
    torch.set_num_threads(1)
    each = -(-arguments.cases // len(arguments.only))
    good = [run(name, LOADERS[name], each, arguments.seed) for name in arguments.only]
    sys.exit(0 if all(good) else 1)


if __name__ == "__main__":
    main()
