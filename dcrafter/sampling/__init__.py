"""The mathematics of sampling, over any denoiser.

A sampler is a function in a module of its own, both of the same name, and a line in `SAMPLERS`. Settings and the
command line read their choices, defaults and help here, so nothing in this module imports torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

from dcrafter.errors import UsageError

if TYPE_CHECKING:
    from dcrafter.sampling.ddim import SamplerFunction


class Sampler(NamedTuple):
    function: str  # its name, and its module's
    eta: float  # by default
    help: str
    final_rescale: bool = False  # by default


SAMPLERS = {
    "ddim": Sampler("ddim", eta=1.0, help="as published"),
    "dpm++": Sampler("dpm", eta=0.0, help="good from 15 steps on", final_rescale=True),
}


def load_sampler(name: str) -> SamplerFunction:
    """A sampler by its name. Raises UsageError if there is none of that name."""
    if name not in SAMPLERS:
        raise UsageError(f"there is no sampler {name}", f"Choose {' or '.join(SAMPLERS)}")
    function = SAMPLERS[name].function
    loaded: SamplerFunction = getattr(import_module(f"{__name__}.{function}"), function)
    return loaded
