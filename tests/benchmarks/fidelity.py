"""Relative errors of every golden case in each type: python tests/benchmarks/fidelity.py [DEVICE]"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parents[1]))

from golden import CASES, GOLDEN, relative_error, run_case

GROUPS = {
    "CLIP pixels and contexts": ["clip_pixels", "clip_image_tokens", "text_context", "image_context"],
    "image latents": ["concat_latents"],
    "one evaluation": ["unet_cond_out", "unet_uncond_out"],
    "sampled latents": ["pred_x0_trace", "final_latents"],
    "decoded": ["decoded"],
}


def errors(family: str, case: str, dtype: torch.dtype, device: str) -> dict[str, float]:
    """The largest ‖computed − recorded‖ / ‖recorded‖ of each group of tensors."""
    recorded = load_file(GOLDEN / family / f"{case}.safetensors")
    computed = run_case(GOLDEN / family, case, dtype=dtype, device=device)
    return {
        group: max(relative_error(computed[name], recorded[name]) for name in names) for group, names in GROUPS.items()
    }


def main() -> None:
    from rich.console import Console
    from rich.table import Table

    device = sys.argv[1] if len(sys.argv) > 1 else "cpu"
    table = Table("case", "type", *GROUPS, title="‖computed − recorded‖ / ‖recorded‖, the largest of each group")
    for family, case in CASES:
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            found = errors(family, case, dtype, device)
            table.add_row(f"{family} {case}", str(dtype)[6:], *(f"{error:.1e}" for error in found.values()))
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
