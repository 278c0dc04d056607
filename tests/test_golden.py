"""Number for number: every tensor of every recorded case."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from golden import CASES, TOON, relative_error, run_case
from safetensors.torch import load_file

MODULE, SAMPLE = 1e-5, 1e-4
SAMPLED = {"pred_x0_trace", "final_latents", "decoded"}


@pytest.mark.parametrize(("family", "case"), CASES)
def test_every_tensor_of_a_case(golden: Path, family: str, case: str) -> None:
    recorded = load_file(golden / family / f"{case}.safetensors")
    computed = run_case(golden / family, case)
    assert set(computed) == set(recorded)
    assert all(computed[name].shape == recorded[name].shape for name in recorded)
    whole_numbers = [name for name, tensor in recorded.items() if not tensor.is_floating_point()]
    assert all(torch.equal(computed[name], recorded[name]) for name in whole_numbers)
    too_far = {
        name: error
        for name in recorded.keys() - whole_numbers
        if (error := relative_error(computed[name], recorded[name])) > (SAMPLE if name in SAMPLED else MODULE)
    }
    assert not too_far


def test_every_tensor_of_toon_crafters_decoder(toon: Path) -> None:
    recorded = load_file(toon / "decode.safetensors")
    computed = run_case(toon, "decode")
    assert set(computed) == set(recorded)
    assert all(computed[name].shape == recorded[name].shape for name in recorded)
    errors = {name: relative_error(computed[name], recorded[name]) for name in recorded}
    assert {name: error for name, error in errors.items() if error > TOON} == {}


def test_bfloat16_stays_near(golden: Path) -> None:
    """Seven bits of mantissa: modules agree to a few per cent, and guidance multiplies what is left by 7.5."""
    recorded = load_file(golden / "dc256" / "animate.safetensors")
    computed = run_case(golden / "dc256", "animate", dtype=torch.bfloat16)
    assert relative_error(computed["image_context"], recorded["image_context"]) < 0.02
    assert relative_error(computed["unet_cond_out"], recorded["unet_cond_out"]) < 0.05
    assert relative_error(computed["decoded"], recorded["decoded"]) < 0.15
