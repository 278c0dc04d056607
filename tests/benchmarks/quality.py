"""How good the small model's videos are, by the public API alone: `dcrafter.load("tiny").animate(...)` and its kin.

    python tests/benchmarks/quality.py --pictures FOLDER [--json FILE] [--sheets FOLDER] [--set guidance=1.5 …]

Needs numpy, Pillow and torch, which dcrafter brings along, and shares no code with dcrafter.evaluation. FOLDER holds
pictures that nobody trained on; those called emoji-*.png are drawings on a plain ground. Every figure compares frames
with the picture itself, shrunk to the frame's size by Lanczos:

- motion is the similarity (zoom, turn, shift) under which the picture looks most like a frame, by a cross-entropy
  search over normalised correlation;
- sharpness is the gradient energy of a frame over that of the picture moved likewise, where the picture shows it;
- fidelity is the PSNR between those two, so it falls where a clip falls apart, not where it moves.

"@256" is the same after frames are enlarged to 256 pixels, against the picture at 256: what a person sees who opens
the file beside the picture, and what a larger model could gain.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

DIRECTED = {  # prompt → which of (zoom, turn, x, y) it moves, and which way; a pan is the camera's
    "zoom in on {}": (0, 1), "zoom out from {}": (0, -1),
    "the camera pans left, {}": (2, 1), "the camera pans right, {}": (2, -1),
    "{} rotates clockwise": (1, 1), "{} rotates counterclockwise": (1, -1),
}  # fmt: skip
FREE = ("{} yawning", "waves, {}", "{} runs", "{} smiles and waves", "wind blows, {}", "{} comes alive")
FRAMES = (0, 3, 6, 9, 12, 15)  # of sixteen, that are registered
NAMES = {"chelsea": "a cat", "astronaut": "an astronaut", "coffee": "a cup of coffee", "rocket": "a rocket",
         "china": "a temple", "flower": "a flower", "motorcycle": "a motorcycle"}  # fmt: skip


# --- pictures


def square(path: Path, size: int) -> torch.Tensor:
    """The middle square of a picture at a size: (3, size, size) in [0, 1]."""
    image = Image.open(path)
    if "A" in image.getbands() or "transparency" in image.info:
        ground = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(ground, image.convert("RGBA"))
    image = image.convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255


def planes(frames: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float() / 255


def grey(x: torch.Tensor) -> torch.Tensor:
    return (x * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(-3, keepdim=True)


# --- figures


def psnr(a: torch.Tensor, b: torch.Tensor, where: torch.Tensor | None = None) -> float:
    error = ((a - b) ** 2).mean(-3, keepdim=True)
    error = error.mean() if where is None else (error * where).sum() / where.sum().clamp_min(1)
    return float(-10 * torch.log10(error.clamp_min(1e-9)))


def energy(x: torch.Tensor, where: torch.Tensor | None = None) -> float:
    """Mean squared gradient of the grey picture (1, H, W) or (3, H, W)."""
    g = grey(x)
    e = F.pad(g.diff(dim=-1), (0, 1)) ** 2 + F.pad(g.diff(dim=-2), (0, 0, 0, 1)) ** 2
    return float(e.mean() if where is None else (e * where).sum() / where.sum().clamp_min(1))


def gmsd(a: torch.Tensor, b: torch.Tensor) -> float:
    """Gradient magnitude similarity deviation (Xue et al. 2014), in hundredths: 0 alike, 30 ruined."""
    kernel = torch.tensor([[1.0, 0, -1]] * 3)[None, None] / 3

    def magnitude(x: torch.Tensor) -> torch.Tensor:
        g = F.avg_pool2d(grey(x)[None], 2)
        return torch.sqrt(F.conv2d(g, kernel) ** 2 + F.conv2d(g, kernel.mT) ** 2 + 1e-12)

    m, n, c = magnitude(a), magnitude(b), 0.0026
    return 100 * float(((2 * m * n + c) / (m**2 + n**2 + c)).std())


def grid_of(p: torch.Tensor, size: int) -> torch.Tensor:
    """Parameters (n, 4), zoom, turn, x, y → where each pixel of the moved picture lies in the picture."""
    line = (torch.arange(size) + 0.5) * 2 / size - 1
    y, x = torch.meshgrid(line, line, indexing="ij")
    x, y = x[None] - p[:, 2, None, None], y[None] - p[:, 3, None, None]
    cos, sin = (f(p[:, 1])[:, None, None] * torch.exp(-p[:, 0])[:, None, None] for f in (torch.cos, torch.sin))
    return torch.stack([cos * x + sin * y, -sin * x + cos * y], dim=-1)


def moved(picture: torch.Tensor, p: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(3, S, S) under one motion (4,) → the same and where the picture shows it (1, S, S), a pixel of border less."""
    size = picture.shape[-1]
    grid = grid_of(p[None], size)
    out = F.grid_sample(picture[None], grid, mode="bicubic", padding_mode="border", align_corners=False)[0]
    inside = (grid.abs().amax(-1) < 1 - 6 / size).float()
    border = torch.zeros_like(inside)
    border[:, 3:-3, 3:-3] = 1
    return out.clamp(0, 1), inside * border


def register(picture: torch.Tensor, frames: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """The motion (n, 4) from the picture to each of a few frames in order, by correlation."""
    found, mean = [], torch.zeros(4)
    step = torch.zeros(4)
    for frame in frames:
        mean = mean + step * 0.9
        before = found[-1] if found else torch.zeros(4)
        spread = torch.tensor([0.06, 0.08, 0.09, 0.09])
        for size, rounds in ((32, 4), (64, 3)):
            a, b = (F.interpolate(grey(x)[None], (size, size), mode="area") for x in (picture, frame))
            for _ in range(rounds):
                p = mean + spread * torch.randn(160, 4, generator=generator)
                p[0], p[1] = mean, before
                grid = grid_of(p, size)
                seen = F.grid_sample(a.expand(len(p), -1, -1, -1), grid, padding_mode="border", align_corners=False)
                w = (grid.abs().amax(-1) < 1).float()[:, None] + 1e-3
                total = w.sum((1, 2, 3), keepdim=True)
                u = seen - (w * seen).sum((1, 2, 3), keepdim=True) / total
                v = b - (w * b).sum((1, 2, 3), keepdim=True) / total
                r = (w * u * v).sum((1, 2, 3)) / ((w * u * u).sum((1, 2, 3)) * (w * v * v).sum((1, 2, 3))).sqrt()
                best = p[r.topk(16).indices]
                mean, spread = best.mean(0), best.std(0) * 0.9 + torch.tensor([0.001, 0.001, 0.001, 0.001])
        step = mean - before
        found.append(mean)
    return torch.stack(found)


class Clip:
    """A clip against its picture."""

    def __init__(self, path: Path, frames: np.ndarray, seed: int, which: tuple[int, ...] | None = None) -> None:
        self.path = path
        self.frames = planes(frames)
        self.size = self.frames.shape[-1]
        self.picture = square(path, self.size)
        which = which or tuple(round(i / 15 * (len(frames) - 1)) for i in FRAMES)
        self.which = which
        self.motion = register(self.picture, self.frames[list(which)], torch.Generator().manual_seed(seed))

    def over_time(self) -> list[dict[str, float]]:
        rows = []
        large = square(self.path, 256)
        for i, p in zip(self.which, self.motion, strict=True):
            frame = self.frames[i]
            ideal, where = moved(self.picture, p)
            ideal256, where256 = moved(large, p)
            frame256 = F.interpolate(frame[None], (256, 256), mode="bicubic", align_corners=False)[0].clamp(0, 1)
            seen = where.sum().clamp_min(1)
            colour = ((frame - ideal) * where).sum((1, 2)) / seen
            rows.append({
                "sharp": energy(frame, where) / max(energy(ideal, where), 1e-9),
                "sharp256": energy(frame256, where256) / max(energy(ideal256, where256), 1e-9),
                "db": psnr(frame, ideal, where),
                "db256": psnr(frame256, ideal256, where256),
                "whole": energy(frame) / max(energy(self.picture), 1e-9),
                "colour": 255 * float(colour.abs().mean()),
                "contrast": float(frame.std() / self.picture.std()),
            })  # fmt: skip
        return rows

    def flicker(self) -> float:
        """What neighbouring frames do beyond a steady motion, in grey levels: |f₋₁ − 2f₀ + f₊₁| / 2, frames held still
        by the measured motion, where the picture shows them."""
        steps = np.interp(np.arange(len(self.frames)), self.which, np.arange(len(self.which)))
        low = np.minimum(steps.astype(int), len(self.which) - 2)
        share = torch.tensor(steps - low)[:, None].float()
        p = self.motion[low] * (1 - share) + self.motion[low + 1] * share
        line = (torch.arange(self.size) + 0.5) * 2 / self.size - 1
        y, x = torch.meshgrid(line, line, indexing="ij")
        cos, sin = (f(p[:, 1])[:, None, None] * torch.exp(p[:, 0])[:, None, None] for f in (torch.cos, torch.sin))
        grid = torch.stack([cos * x - sin * y + p[:, 2, None, None], sin * x + cos * y + p[:, 3, None, None]], -1)
        held = F.grid_sample(grey(self.frames), grid, padding_mode="border", align_corners=False)
        where = (grid.abs().amax(-1) < 0.97).float().amin(0)
        bend = (held[:-2] - 2 * held[1:-1] + held[2:]).abs()[:, 0] / 2
        return 255 * float((bend * where).sum() / (where.sum() * len(bend)).clamp_min(1))

    def steps(self) -> float:
        return 255 * float(self.frames.diff(dim=0).abs().mean())


# --- the run


def sheet(rows: list[np.ndarray], path: Path, scale: int = 1) -> None:
    width = max(sum(f.shape[1] for f in row) for row in rows)
    lines = []
    for row in rows:
        line = np.concatenate(list(row), axis=1)
        lines.append(np.pad(line, ((0, 4), (0, width - line.shape[1]), (0, 0)), constant_values=255))
    image = Image.fromarray(np.concatenate(lines))
    image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST).save(path)


def mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--checkpoint")
    parser.add_argument("--lora", action="append", default=[], metavar="FILE[:SCALE]")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--sheets", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="an option of animate")
    parser.add_argument("--quick", action="store_true", help="directed prompts alone")
    args = parser.parse_args()
    options = {}
    for item in args.set:
        name, value = item.split("=", 1)
        try:
            options[name] = json.loads(value)
        except json.JSONDecodeError:
            options[name] = value

    began = time.perf_counter()
    import dcrafter

    more = {"checkpoint": args.checkpoint} if args.checkpoint else {}
    pipe = dcrafter.load(args.model, lora=args.lora, **more)
    paths = sorted(p for p in args.pictures.iterdir() if p.suffix in (".png", ".jpg"))
    if not paths:
        sys.exit(f"no pictures in {args.pictures}")

    def name(path: Path) -> str:
        return NAMES.get(path.stem.removeprefix("emoji-"), "a " + path.stem.removeprefix("emoji-").replace("-", " "))

    generation: list[float] = []

    def made(call, *given, **more):
        start = time.perf_counter()
        frames = call(*given, seed=1, **{**options, **more}).frames
        generation.append((time.perf_counter() - start) / (len(frames) / 16))
        return frames

    table: list[tuple[str, float, str]] = []
    shown: dict[str, list[np.ndarray]] = {}

    # 1 prompted motion, three prompts a picture so that each occurs equally often
    prompts = list(DIRECTED)
    clips: list[tuple[str, Path, Clip]] = []
    for i, path in enumerate(paths):
        for k in range(3):
            prompt = prompts[(i + 2 * k + (i // 2) % 2) % len(prompts)]
            frames = made(pipe.animate, str(path), prompt.format(name(path)))
            clips.append((prompt, path, Clip(path, frames, len(clips))))
            shown.setdefault("directed", []).append(frames)
    right, amounts = [], {0: [], 1: [], 2: []}
    for prompt, _, clip in clips:
        axis, sign = DIRECTED[prompt]
        amount = sign * float(clip.motion[-1, axis])
        right.append(amount > (0.03 if axis != 2 else 0.05))
        amounts[axis].append(amount)
    over = [clip.over_time() for *_, clip in clips]
    kinds = {"photos": [], "emoji": []}
    for (_, path, _), rows in zip(clips, over, strict=True):
        kinds["emoji" if path.stem.startswith("emoji") else "photos"].append(rows)
    firsts = {path: (clip, rows) for (_, path, clip), rows in zip(clips, over, strict=True)}
    for kind, of_kind in kinds.items():
        few = [v for p, v in firsts.items() if p.stem.startswith("emoji") == (kind == "emoji")]
        table.append((f"first frame, {kind}: PSNR", mean([r[0]["db"] for _, r in few]), "dB"))
        table.append((f"first frame, {kind}: PSNR @256", mean([r[0]["db256"] for _, r in few]), "dB"))
        table.append((f"first frame, {kind}: GMSD", mean([gmsd(c.frames[0], c.picture) for c, _ in few]), "/100"))
        for at in range(len(FRAMES)):
            table.append(
                (f"sharpness, {kind}, frame {FRAMES[at] + 1}", 100 * mean([r[at]["sharp"] for r in of_kind]), "%")
            )
        for at in (0, 3, 5):
            table.append(
                (
                    f"sharpness @256, {kind}, frame {FRAMES[at] + 1}",
                    100 * mean([r[at]["sharp256"] for r in of_kind]),
                    "%",
                )
            )
        for at in range(len(FRAMES)):
            table.append((f"fidelity, {kind}, frame {FRAMES[at] + 1}", mean([r[at]["db"] for r in of_kind]), "dB"))
        table.append((f"fidelity @256, {kind}, frame 16", mean([r[-1]["db256"] for r in of_kind]), "dB"))
    for axis, what in enumerate(("zoom", "turn", "pan")):
        few = [r[-1]["sharp"] for (p, *_), r in zip(clips, over, strict=True) if DIRECTED[p][0] == axis]
        table.append((f"sharpness of the last frame under {what}", 100 * mean(few), "%"))
    table.append(("motion as prompted, by a plain amount", 100 * mean([float(r) for r in right]), "%"))
    table.append(("zoom in 16 frames", 100 * (np.exp(mean(amounts[0])) - 1), "%"))
    table.append(("turn in 16 frames", np.degrees(mean(amounts[1])), "°"))
    table.append(("pan in 16 frames, of the view's width", 50 * mean(amounts[2]), "%"))
    table.append(("colour drift, frame 16", mean([r[-1]["colour"] for r in over]), "grey levels"))
    table.append(("contrast, frame 16", 100 * mean([r[-1]["contrast"] for r in over]), "%"))
    table.append(("flicker", mean([clip.flicker() for *_, clip in clips]), "grey levels"))
    table.append(("step between frames", mean([clip.steps() for *_, clip in clips]), "grey levels"))

    if not args.quick:
        # 2 free prompts
        free = []
        for i, path in enumerate(paths[: 2 * len(FREE) : 2]):
            frames = made(pipe.animate, str(path), FREE[i % len(FREE)].format(name(path)))
            free.append(Clip(path, frames, i))
            shown.setdefault("free", []).append(frames)
        rows = [clip.over_time() for clip in free]
        table.append(("free prompts: step between frames", mean([c.steps() for c in free]), "grey levels"))
        table.append(("free prompts: sharpness, whole, frame 16", 100 * mean([r[-1]["whole"] for r in rows]), "%"))
        table.append(("free prompts: flicker", mean([c.flicker() for c in free]), "grey levels"))

        # 3 standing still
        still = []
        for i, path in enumerate(paths[:3]):
            frames = made(pipe.animate, str(path), f"a still shot of {name(path)}")
            still.append(Clip(path, frames, i))
        table.append(("still: step between frames", mean([c.steps() for c in still]), "grey levels"))
        table.append(("still: fidelity, frame 16", mean([c.over_time()[-1]["db"] for c in still]), "dB"))

        # 4 loops
        gaps, moves, seams = [], [], []
        for i, path in enumerate(paths[1::3][:5]):
            prompt = ("{} sways", "{} pulses", "ripples run over {}", "zoom in on {}", "{} shakes")[i]
            frames = made(pipe.loop, str(path), prompt.format(name(path)))
            shown.setdefault("loop", []).append(frames)
            x = 255 * planes(frames)
            step = x.diff(dim=0).abs().mean((1, 2, 3))
            gaps.append(float((x[-1] - x[0]).abs().mean() / step.mean().clamp_min(1e-6)))
            moves.append(float(step.mean()))
            e = [energy(f / 255) for f in x]
            seams.append(e[0] / max(float(np.mean([e[1], e[-1]])), 1e-9))
        table.append(("loop: last step over the mean step", mean(gaps), ""))
        table.append(("loop: step between frames", mean(moves), "grey levels"))
        table.append(("loop: sharpness of its first frame over its neighbours'", 100 * mean(seams), "%"))

        # 5 between different pictures
        ends, middles, worst = [], [], []
        for a, b in list(zip(paths, paths[1:] + paths[:1], strict=True))[::3][:4]:
            frames = made(pipe.interpolate, [str(a), str(b)], f"{name(a)} becomes {name(b)}")
            shown.setdefault("between", []).append(frames)
            x = planes(frames)
            pa, pb = square(a, x.shape[-1]), square(b, x.shape[-1])
            ends.append((psnr(x[0], pa) + psnr(x[-1], pb)) / 2)
            middles.append(energy(x[len(x) // 2]) / (0.5 * (energy(pa) + energy(pb))))
            step = x.diff(dim=0).abs().mean((1, 2, 3))
            worst.append(float(step.max() / step.mean()))
        table.append(("between pictures: ends, PSNR", mean(ends), "dB"))
        table.append(("between pictures: sharpness of the middle", 100 * mean(middles), "%"))
        table.append(("between pictures: largest step over the mean", mean(worst), ""))

        # 6 three segments
        last, first = [], []
        for path in paths[:2]:
            frames = made(pipe.animate, str(path), f"zoom in on {name(path)}", segments=3)
            shown.setdefault("segments", []).append(frames[:: max(len(frames) // 15, 1)][:16])
            x = planes(frames)
            last.append(energy(x[-1]) / energy(square(path, x.shape[-1])))
            first.append(energy(x[15]) / energy(square(path, x.shape[-1])))
        table.append(("three segments: sharpness, whole, frame 16", 100 * mean(first), "%"))
        table.append(("three segments: sharpness, whole, last frame", 100 * mean(last), "%"))

    table.append(("frame size", float(clips[0][2].size), "pixels"))
    table.append(("generation, warm, of 16 frames", float(np.median(generation)), "s"))
    table.append(("this script", time.perf_counter() - began, "s"))
    for what, value, unit in table:
        print(f"{what:58s} {value:8.2f} {unit}")
    if args.json:
        args.json.write_text(json.dumps({what: value for what, value, _ in table}, indent=1))
    if args.sheets:
        args.sheets.mkdir(parents=True, exist_ok=True)
        for kind, videos in shown.items():
            sheet(
                [v[:: max(len(v) // 8, 1)][:9] if kind != "segments" else v[::2] for v in videos],
                args.sheets / f"{kind}.png",
            )


if __name__ == "__main__":
    main()
