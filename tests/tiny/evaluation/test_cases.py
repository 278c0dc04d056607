from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from dcrafter.errors import InputError
from dcrafter.tiny.captions import PHRASES, fill
from dcrafter.tiny.clips import ClipSampler
from dcrafter.tiny.evaluation import cases
from dcrafter.tiny.motions import DIRECTED


@pytest.fixture(scope="module")
def source(data: Path) -> ClipSampler:
    return ClipSampler(data, "held-out", size=32, frames=4)


def test_directed_motions_take_turns(source: ClipSampler) -> None:
    for kind, frames in ((cases.pictures, 1), (cases.between, 4)):
        made = kind(source, 0, 17)
        assert [case.direction for case in made] == [*DIRECTED, *DIRECTED, DIRECTED[0]]
        assert all(case.frames.shape == (frames, 32, 32, 3) for case in made)
        assert all("disc" not in case.caption for case in made)  # the fixture's emoji


def test_a_picture_does_not_tell_what_will_be_asked(data: Path) -> None:
    source = ClipSampler(data, size=32, frames=4)  # of several pictures
    views = [source.prompted_view(0, 5, motion) for motion in DIRECTED]
    assert all(torch.equal(view, views[0][0]) for view, _ in views)
    assert len({caption for _, caption in views}) == len(DIRECTED)
    assert not torch.equal(views[0][0], source.prompted_view(0, 6, DIRECTED[0])[0])


def test_fewer_cases_are_the_first_of_more(source: ClipSampler) -> None:
    for kind in (cases.pictures, cases.between, cases.paraphrases, cases.loops, cases.emoji):
        for few, many in zip(kind(source, 3, 3), kind(source, 3, 6), strict=False):
            assert few.caption == many.caption
            assert torch.equal(few.frames, many.frames)


def test_paraphrases_are_the_same_pictures_in_words_not_trained_on(source: ClipSampler) -> None:
    usual, new = cases.pictures(source, 0, 24), cases.paraphrases(source, 0, 24)
    phrases = [
        fill(phrase, noun, pace)
        for name in DIRECTED
        for phrase in PHRASES[name].held_out
        for noun in cases.NOUNS
        for pace in (None, "slow", "fast")
    ]
    for one, other in zip(usual, new, strict=True):
        assert torch.equal(one.frames, other.frames)
        assert one.direction == other.direction
        plain = other.caption.replace("rapidly", "quickly").replace("gently", "slowly")
        assert plain in phrases


def test_a_noun_of_the_training_data_is_not_used(data: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(data, tmp_path / "data")
    about = json.loads((folder / "index.json").read_text())
    about["emoji"][0]["tags"].append("Grand Canyon")
    about["pictures"][0]["label"] = "the horizon at dawn"
    (folder / "index.json").write_text(json.dumps(about))
    nouns = cases.unseen_nouns(ClipSampler(folder, "held-out"))
    assert set(cases.NOUNS) - set(nouns) == {"a canyon", "the horizon"}
    about["pictures"][0]["label"] = " ".join(cases.NOUNS)
    (folder / "index.json").write_text(json.dumps(about))
    with pytest.raises(InputError, match="every noun"):
        cases.unseen_nouns(ClipSampler(folder, "held-out"))


def test_emoji_move_by_themselves_at_the_one_pace(source: ClipSampler) -> None:
    made = cases.emoji(source, 0, 4)
    clips = [source.clip(0, index) for index in range(400)]
    same_pace = [clip["frames"] for clip in clips if clip["kind"] == "animation" and clip["fps"] == cases.FPS]
    for case, frames in zip(made, same_pace, strict=False):
        assert case.direction is None
        assert torch.equal(case.frames, frames)


def test_loops_come_back(source: ClipSampler) -> None:
    assert [case.direction for case in cases.loops(source, 0, 5)] == [*cases.LOOPING, cases.LOOPING[0]]


def test_known_motions_tell_what_is_new(source: ClipSampler) -> None:
    for case in cases.known(source, 0, 8):
        assert isinstance(case, cases.KnownCase)
        assert case.new is not None
        assert case.new.shape == case.frames.shape[:3]
        assert not case.new[0].any()
        assert case.new[-1].any() == (case.direction != "zoom in")


def test_local_motions_take_turns_at_the_one_pace(source: ClipSampler) -> None:
    made = cases.local(source, 0, 6)
    assert [case.direction for case in made] == [*cases.LOCAL, *cases.LOCAL]
    assert all(case.fs == cases.FPS for case in made)
