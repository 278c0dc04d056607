"""dcrafter makes a still image move: DynamiCrafter (Xing et al., ECCV 2024) in PyTorch.

import dcrafter

pipe = dcrafter.load("512")
video = pipe.animate("cat.png", "cat yawning", seed=1)
video.save("cat.mp4")

for event in pipe.stream("animate", "cat.png", "cat yawning", seed=1, steps=30):
    if isinstance(event, dcrafter.Step):
        print(event.index, "of", event.total)
    if isinstance(event, dcrafter.Done):
        event.video.save("cat.mp4")
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Unpack

# Else huggingface_hub, which reads this at import, tells the hub about the machine, and asks it for a list of programs
# to tell of, even where a file is only looked up on the disk.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from dcrafter.errors import (
        BatchError,
        DCrafterError,
        InputError,
        NumericalError,
        OutOfMemoryError,
        OutputError,
        UsageError,
        WeightsError,
        WriteError,
    )
    from dcrafter.events import (
        Decoding,
        Done,
        Encoding,
        Event,
        Loading,
        MemoryDowngraded,
        Part,
        Step,
        Video,
    )
    from dcrafter.pipeline import LoadOptions, Pipeline
    from dcrafter.settings import Options, Settings

__version__ = "0.1.0"
__all__ = [
    "BatchError",
    "DCrafterError",
    "Decoding",
    "Done",
    "Encoding",
    "Event",
    "InputError",
    "LoadOptions",
    "Loading",
    "MemoryDowngraded",
    "NumericalError",
    "Options",
    "OutOfMemoryError",
    "OutputError",
    "Part",
    "Pipeline",
    "Settings",
    "Step",
    "UsageError",
    "Video",
    "WeightsError",
    "WriteError",
    "__version__",
    "load",
]

_MODULES = ("errors", "events", "settings", "pipeline")  # where the names are; the last imports torch


def load(model: str = "auto", **options: Unpack[LoadOptions]) -> Pipeline:
    """A pipeline for a model by name, or for a `checkpoint=` file: see `Pipeline.from_pretrained`."""
    from dcrafter.pipeline import Pipeline

    return Pipeline.from_pretrained(model, **options)


def __getattr__(name: str) -> Any:
    # Importing torch takes seconds; whoever only wants the version does not wait for it.
    if name in __all__:
        from importlib import import_module

        for module in map(import_module, (f"dcrafter.{module}" for module in _MODULES)):
            if name in vars(module):
                return vars(module)[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
