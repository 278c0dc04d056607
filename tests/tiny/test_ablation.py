"""The short form of the paper's ablations."""

from __future__ import annotations

from pathlib import Path

import pytest

from dcrafter.tiny import ablation
from dcrafter.tiny.recipe import RECIPES, TinyRecipe
from dcrafter.training.recipe import load_recipe


def test_each_variant_differs_by_one_line_and_by_nothing_in_steps_over_clips() -> None:
    plain = load_recipe(Path("tiny-ablation"), TinyRecipe, RECIPES)
    for name, stages in ablation.VARIANTS.items():
        changes = {change for _, changes in stages for change in changes}
        assert len(changes) == (name not in ("as in the paper", "one stage")), name
        assert all(load_recipe(Path("tiny-ablation"), TinyRecipe, RECIPES, [each]) != plain for each in changes)
        of_clips = sum(ablation.STEPS[stage] for stage, _ in stages if stage != "context")
        assert of_clips == ablation.STEPS["adaptation"] + ablation.STEPS["detail"], name


def test_a_stage_that_was_stopped_is_no_base_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ablation, "train", lambda *_: False)
    monkeypatch.setattr(type(ablation.COMMAND), "make_stage", lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        ablation.train_stage("context", (), Path(), Path(), Path())


@pytest.mark.slow
def test_variants_are_trained_and_measured(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All but a few steps and videos; what variants have in common is trained once."""
    for name in ("EVALUATION_CLIPS", "SHOWN", "STEPS"):
        monkeypatch.setattr(f"dcrafter.training.denoiser.{name}", 1)
    chosen = ("as in the paper", "no visual detail guidance", "no image context")
    monkeypatch.setattr(ablation, "VARIANTS", {name: ablation.VARIANTS[name] for name in chosen})
    monkeypatch.setattr(ablation, "STEPS", dict.fromkeys(ablation.STEPS, 1))
    load = ablation.load_recipe  # in float32: accelerate has one precision a process, and other tests have that
    monkeypatch.setattr(ablation, "load_recipe", lambda *given: load(*given[:3], [*given[3], "train.precision=no"]))
    monkeypatch.setattr("sys.argv", ["ablation", "--data", str(data), "--out", str(tmp_path), "--count", "2"])
    ablation.main()
    said = capsys.readouterr()
    head, _, *rows = said.out.splitlines()
    assert head == "| variant | FVD | PIC | PSNR | motion | direction |"
    assert [row.split(" | ")[0].strip("| ") for row in rows] == [*chosen]
    assert said.err.count("done at step 1") == 1 + 3 + 1 + 2
    kept = {str(path.parent.relative_to(tmp_path)) for path in tmp_path.rglob("checkpoint.pt")}
    assert {"base", "base/context/adaptation/detail", "base/context/adaptation/detail-detail=false"} < kept
    ablation.main()  # there is nothing left to train
    assert capsys.readouterr().out.splitlines()[2:] == rows
