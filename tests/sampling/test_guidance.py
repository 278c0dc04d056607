from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dcrafter.sampling.guidance import Guidance, guide, guide_multi, rescale_guidance

OUTPUTS = {
    (text, image): torch.randn(2, 4, 3, 5, 5, generator=torch.Generator().manual_seed(2 * text + image))
    for text in (False, True)
    for image in (False, True)
}
NOTHING, IMAGE, BOTH = (OUTPUTS[key] for key in ((False, False), (False, True), (True, True)))


@pytest.mark.parametrize(
    ("guidance", "guided", "asked"),
    [
        (Guidance(1.0), BOTH, 1),
        (Guidance(7.5), guide(NOTHING, BOTH, 7.5), 2),
        (Guidance(0.0, rescale=0.7), rescale_guidance(NOTHING, BOTH, 0.7), 2),
        (Guidance(7.5, 1.5), guide_multi(NOTHING, IMAGE, BOTH, 1.5, 7.5), 3),
        (Guidance(1.0, 1.0, 0.5), rescale_guidance(guide_multi(NOTHING, IMAGE, BOTH, 1.0, 1.0), BOTH, 0.5), 3),
    ],
)
def test_a_step_evaluates_what_its_scales_need(guidance: Guidance, guided: Tensor, asked: int) -> None:
    evaluated: list[tuple[bool, bool]] = []

    def predict(text: bool, image: bool) -> Tensor:
        evaluated.append((text, image))
        return OUTPUTS[text, image]

    assert guidance(predict).equal(guided)
    assert len(evaluated) == guidance.evaluations == asked
    assert evaluated[0] == (True, True)


def test_the_scale_goes_from_the_first_frame_to_the_last() -> None:
    guidance = Guidance(1.0, last_scale=7.0)
    guided = guidance(lambda text, image: OUTPUTS[text, image], torch.linspace(0, 1, 3))
    for frame, scale in enumerate((1.0, 4.0, 7.0)):
        expected = guide(NOTHING, BOTH, scale)[:, :, frame]
        torch.testing.assert_close(guided[:, :, frame], expected, atol=1e-5, rtol=1e-5)
    assert guidance.evaluations == 2
    several = Guidance(1.0, 2.0, last_scale=1.0)(lambda text, image: OUTPUTS[text, image], torch.linspace(0, 1, 3))
    assert several.equal(guide_multi(NOTHING, IMAGE, BOTH, 2.0, 1.0))
