"""Runs side by side: as a table, JSON, a chart, and a page with their videos."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dcrafter.evaluation.extraction import Extraction
from dcrafter.evaluation.scores import Scores
from dcrafter.media.formats import is_animation
from dcrafter.metrics import METRICS

COLORS = ("#4a7fb5", "#d1833f", "#5a9b5d", "#a05195", "#c0504d", "#8c7b5a")
BAR, GAP, LETTER = 16, 14, 7  # pixels, of the chart
HEAD = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Evaluation</title>
<style>
body { font: 15px/1.4 system-ui, sans-serif; margin: 2rem; color: #222; background: #fff }
table { border-collapse: collapse } td, th { padding: .3rem .8rem; border-bottom: 1px solid #ddd; text-align: right }
td:first-child, th:first-child { text-align: left } caption { text-align: left; font-weight: bold }
.case { margin: 1.5rem 0; display: flex; gap: 1rem; flex-wrap: wrap } .case h3 { flex-basis: 100%; margin: 0 }
figure { margin: 0; max-width: 30% } video, img { max-width: 100%; display: block } figcaption { font-size: 12px }
</style>
<h1>Evaluation</h1>"""
SCRIPT = """<script>
for (const image of document.querySelectorAll("[data-frames]")) {
  const frames = JSON.parse(image.dataset.frames);
  let number = 0;
  setInterval(() => { image.src = frames[++number % frames.length]; }, 125);
}
</script>"""


def shown(value: float | None) -> str:
    """A figure as tables have it."""
    return "–" if value is None else f"{value:.4g}"


def heads(metrics: Sequence[str], extraction: Extraction) -> dict[str, str]:
    """What each metric is called in a table, with the extractor it depends on."""
    labels = {name: extraction.label(METRICS[name].inputs) for name in metrics}
    return {name: f"{METRICS[name].help}{f' ({label})' if label else ''}" for name, label in labels.items()}


def table(scored: Sequence[Scores], metrics: Sequence[str], extraction: Extraction) -> str:
    """As Markdown: a row a metric, a column a run."""
    lines = [
        f"| metric | better | {' | '.join(scores.name for scores in scored)} | n |",
        "|---|---|" + "---|" * (len(scored) + 1),
    ]
    for name, head in heads(metrics, extraction).items():
        figures = " | ".join(shown(scores.mean(name)) for scores in scored)
        lines.append(f"| {head} | {METRICS[name].better} | {figures} | {scored[0].count(name)} |")
    return "\n".join(lines)


def as_json(scored: Sequence[Scores], metrics: Sequence[str], extraction: Extraction) -> str:
    """Every figure, with its standard error and those of the clips."""
    runs: list[dict[str, Any]] = [
        {
            "name": scores.name,
            "figures": {
                name: {"value": scores.mean(name), "standard_error": scores.error(name), "n": scores.count(name)}
                for name in metrics
            },
            "clips": [
                {"name": clip.name, "path": str(clip.path), "caption": clip.caption}
                | {name: values[number] for name, values in scores.values.items()}
                for number, clip in enumerate(scores.clips)
            ],
            "problems": scores.problems,
        }
        for scores in scored
    ]
    used = {"model": extraction.model, "features": extraction.features, "perceptual": extraction.perceptual}
    found = {"extractors": used, "metrics": heads(metrics, extraction), "runs": runs}
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


def chart(scored: Sequence[Scores], metrics: Sequence[str], extraction: Extraction) -> str:
    """Bars of each metric, as an SVG: every metric on a scale of its own that begins at zero."""
    top, parts = 24, []
    left = 20 + LETTER * max(len(scores.name) for scores in scored)
    for name, head in heads(metrics, extraction).items():
        parts.append(
            f'<text x="8" y="{top}" font-weight="bold">{html.escape(head)}; better: {METRICS[name].better}</text>'
        )
        most = max((abs(scores.mean(name) or 0) for scores in scored), default=0) or 1
        for number, scores in enumerate(scored):
            value = scores.mean(name)
            y, width = top + 6 + number * (BAR + 2), 400 * max(value or 0, 0) / most
            parts += [
                f'<text x="{left - 6}" y="{y + 12}" text-anchor="end">{html.escape(scores.name)}</text>',
                f'<rect x="{left}" y="{y}" width="{width:.1f}" height="{BAR}" fill="{COLORS[number % len(COLORS)]}"/>',
                f'<text x="{left + width + 6:.1f}" y="{y + 12}">{shown(value)}</text>',
            ]
        top += 6 + len(scored) * (BAR + 2) + GAP + 12
    size = f'width="{left + 490}" height="{top}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">'
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>"]) + "\n"


def page(scored: Sequence[Scores], metrics: Sequence[str], extraction: Extraction, path: Path) -> str:
    """An HTML page for `path`: the table, and the videos of each case beside each other; it links to their files."""
    rows = [line.strip("| ").split(" | ") for line in table(scored, metrics, extraction).splitlines()]
    cells = [("th", rows[0]), *(("td", row) for row in rows[2:])]
    lines = ["".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row) for tag, row in cells]
    body = [
        "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>",
        *(f"<p>Left out: {html.escape(problem)}</p>" for scores in scored for problem in scores.problems),
    ]
    cases: dict[str, list[str]] = {}
    captions: dict[str, str] = {}
    for scores in scored:
        for number, clip in enumerate(scores.clips):
            figures = [(name, values[number]) for name, values in scores.values.items()]
            text = ", ".join(f"{name} {shown(value)}" for name, value in figures if value is not None)
            label = f"<b>{html.escape(scores.name)}</b><br>{text}"
            video = player(clip.path, path.parent)
            cases.setdefault(clip.name, []).append(f"<figure>{video}<figcaption>{label}</figcaption></figure>")
            captions[clip.name] = captions.get(clip.name) or clip.caption
    for name, figures_of_case in cases.items():
        head = html.escape(f"{name}: {captions[name]}" if captions[name] else name)
        body.append(f'<div class="case"><h3>{head}</h3>{"".join(figures_of_case)}</div>')
    return "\n".join([HEAD, *body, SCRIPT]) + "\n"


def player(file: Path, folder: Path) -> str:
    """An element of a page in `folder` that plays a video, an animation or a folder of frames."""
    if file.is_dir():
        frames = [_relative(frame, folder) for frame in sorted(file.glob("*.png"))]
        return f'<img src="{frames[0]}" data-frames="{html.escape(json.dumps(frames))}" alt="">'
    address = html.escape(_relative(file, folder))
    if is_animation(file):
        return f'<img src="{address}" alt="">'
    return f'<video src="{address}" autoplay loop muted playsinline controls preload="metadata"></video>'


def _relative(file: Path, folder: Path) -> str:
    try:
        return quote(os.path.relpath(file, folder).replace(os.sep, "/"))
    except ValueError:  # another drive of Windows
        return file.absolute().as_uri()
