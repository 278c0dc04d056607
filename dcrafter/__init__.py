"""dcrafter makes a still picture move: DynamiCrafter (Xing et al., ECCV 2024) in PyTorch.

import dcrafter

pipe = dcrafter.load("512")
video = pipe.animate("cat.png", "cat yawning", seed=1)
video.save("cat.mp4")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dcrafter.events import Video
    from dcrafter.pipeline import Pipeline

__version__ = "0.1.0"
__all__ = ["Pipeline", "Video", "__version__", "load"]


def load(model: str = "auto", **options: Any) -> Pipeline:
    """A pipeline for a model by name, or for a `checkpoint=` file: see `Pipeline.from_pretrained`."""
    from dcrafter.pipeline import Pipeline

    return Pipeline.from_pretrained(model, **options)


def __getattr__(name: str) -> Any:
    # Importing torch takes seconds; whoever only wants the version does not wait for it.
    if name in ("Pipeline", "Video"):
        from dcrafter import pipeline

        return getattr(pipeline, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
