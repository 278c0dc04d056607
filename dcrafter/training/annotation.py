"""What the motion data set's annotations are made by (paper, section 5 and figure 6): words, a prompt, its answer."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from dcrafter.training.videos import parse_confidence

VERSION = 1  # of the prompt: answers to another one are not taken from the cache
CATEGORIES = ("human", "animal", "nature", "vehicle", "object", "camera", "other")
GENERATED = (
    "3d", "abstract", "after effects", "alpha channel", "animated", "animation", "cartoon", "cg", "cgi",
    "computer generated", "digitally generated", "graphics", "green screen", "hologram", "illustration", "infographic",
    "loopable", "motion background", "motion graphic", "render", "rendered", "rendering", "seamless loop", "template",
    "vector", "vfx", "visualization",
)  # fmt: skip
"""Words in captions of videos that no camera took."""

PROMPT = """\
You annotate captions of videos. The caption of a video is:

{caption}

Answer with one JSON object and nothing else:
{{"dynamic_confidence": how certain you are, from 0% to 100%, that the caption describes motion that can be seen,
"dynamic_wording": the motion alone, as a short sentence about who or what moves and how, without places, looks or \
light; "" if there is none,
"dynamic_source_category": what moves, one of {categories}}}

For "Young man in a red shirt doing push-ups in a sunny park" it is
{{"dynamic_confidence": "95%", "dynamic_wording": "Man doing push-ups.", "dynamic_source_category": "human"}}
For "Portrait of a beautiful house on a hill" it is
{{"dynamic_confidence": "5%", "dynamic_wording": "", "dynamic_source_category": "other"}}"""


@dataclass(frozen=True)
class Annotation:
    """What a language model says of a caption, under the names of the columns that the trainer reads."""

    dynamic_confidence: float  # 0 to 1
    dynamic_wording: str
    dynamic_source_category: str  # one of `CATEGORIES`


def is_generated(caption: str, words: Collection[str] = GENERATED) -> bool:
    """True if a caption has one of the words, whole and in any case."""
    pattern = "|".join(re.escape(word) for word in words)
    return bool(words) and re.search(rf"(?<!\w)({pattern})(?!\w)", caption, re.IGNORECASE) is not None


def prompt_for(caption: str) -> str:
    """What the language model is asked."""
    return PROMPT.format(
        caption=json.dumps(" ".join(caption.split()), ensure_ascii=False), categories=", ".join(CATEGORIES)
    )


def parse_answer(text: str) -> Annotation:
    """Read a language model's answer: the last JSON object in it, whatever is around it.

    Raises:
        ValueError: there is none, or its confidence is no number.
    """
    found = _last_object(text)
    confidence = found.get("dynamic_confidence")
    share = confidence / 100 if isinstance(confidence, int | float) and confidence > 1 else parse_confidence(confidence)
    category = str(found.get("dynamic_source_category") or "").strip().lower()
    wording = " ".join(str(found.get("dynamic_wording") or "").split())
    return Annotation(round(min(share, 1), 4), wording, category if category in CATEGORIES else "other")


def _last_object(text: str) -> dict[str, Any]:
    decoder = json.JSONDecoder()
    for start in reversed([match.start() for match in re.finditer(r"\{", text)]):
        try:
            found, _ = decoder.raw_decode(text, start)
        except ValueError:
            continue
        if isinstance(found, dict) and "dynamic_confidence" in found:
            return found
    raise ValueError("no JSON object with a dynamic_confidence")
