from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dcrafter.errors import InputError
from dcrafter.metrics.pixels import frame_difference
from dcrafter.tiny.captions import FAST, LOCAL_PHRASES, PHRASES, SLOW, fill
from dcrafter.tiny.clips import ClipSampler, Draws, film
from dcrafter.tiny.motions import (
    DIRECTED,
    FACE_MOTIONS,
    LOCAL_MOTIONS,
    MOTIONS,
    PACES,
    PAN_RANGE,
    PAN_RATE,
    PANS_AND_TURNS,
    Timing,
    sampling_grid,
)
from dcrafter.tiny.recipe import Clips
from dcrafter.tiny.stills import StillSampler

SIZE, FRAMES = 32, 6


@pytest.fixture(scope="module")
def source(data: Path) -> ClipSampler:
    return ClipSampler(data, size=SIZE, frames=FRAMES)


def grey(frames: Tensor) -> Tensor:
    return frames.float().mean(-1)


def best(last: Tensor, candidates: dict[str, Tensor]) -> str:
    """Which candidate is nearest to `last` away from the borders."""
    inside = slice(6, -6)
    return min(candidates, key=lambda name: float((candidates[name] - last)[inside, inside].abs().mean()))


def affine(image: Tensor, zoom: float = 1.0, turn: float = 0.0) -> Tensor:
    """(H, W) grown by `zoom` and turned clockwise by `turn`, about the middle."""
    cos, sin = np.cos(turn) / zoom, np.sin(turn) / zoom
    grid = F.affine_grid(torch.tensor([[[cos, sin, 0.0], [-sin, cos, 0.0]]]), [1, 1, *image.shape], align_corners=False)
    moved = F.grid_sample(image[None, None], grid.float(), align_corners=False, padding_mode="border")
    return moved[0, 0]


def test_the_same_index_gives_the_same_clip_and_another_does_not(data: Path, source: ClipSampler) -> None:
    again = Draws(ClipSampler(data, size=SIZE, frames=FRAMES).clip, seed=3, length=20)
    for index in range(20):
        first, second = source.clip(3, index), again[index]
        assert torch.equal(first["frames"], second["frames"])
        assert {k: v for k, v in first.items() if k != "frames"} == {k: v for k, v in second.items() if k != "frames"}
    assert not torch.equal(source.clip(3, 0)["frames"], source.clip(4, 0)["frames"])
    sampler = StillSampler(data, size=SIZE)
    stills = Draws(sampler.still, seed=3, length=5)
    assert torch.equal(stills[4], sampler.still(3, 4))
    assert not torch.equal(stills[4], stills[3])


def test_shapes_and_kinds(source: ClipSampler) -> None:
    clips = [source.clip(0, i) for i in range(60)]
    assert {clip["kind"] for clip in clips} == {"animation", "picture", "scene"}
    assert {clip["fps"] for clip in clips} == {24, 12, 8, 6}
    for clip in clips:
        assert clip["frames"].shape == (FRAMES, SIZE, SIZE, 3)
        assert clip["frames"].dtype == torch.uint8


def test_held_out_is_never_drawn_in_training(data: Path, source: ClipSampler) -> None:
    """In the fixture only what is held out is called F or 3."""
    for index in range(150):
        caption = source.clip(1, index)["caption"]
        assert "disc F" not in caption
        assert "picture 3" not in caption
    held_out = ClipSampler(data, "held-out", size=SIZE, frames=FRAMES)
    captions = [held_out.clip(1, index)["caption"] for index in range(40)]
    assert not [caption for caption in captions if "picture 0" in caption or "disc A" in caption]
    assert any("disc F" in caption for caption in captions)
    parts = source.ingredients
    assert all(row["split"] == "train" for row in [*parts.emoji, *parts.animated, *parts.images])


@pytest.mark.parametrize(("name", "axis", "sign"), [
    ("pan left", "x", 1), ("pan right", "x", -1), ("pan up", "y", 1), ("pan down", "y", -1),
])  # fmt: skip
def test_a_pan_is_the_cameras(source: ClipSampler, name: str, axis: str, sign: int) -> None:
    right = 0
    for index in range(8):
        clip = source.clip(7, index, motion=name)
        first, second = grey(clip["frames"])[:2]
        first, second = first - first.mean(), second - second.mean()
        cross = torch.fft.fft2(second) * torch.fft.fft2(first).conj()
        peak = int(torch.fft.ifft2(cross).real.argmax())
        y, x = ((place + SIZE // 2) % SIZE - SIZE // 2 for place in divmod(peak, SIZE))
        shift = x if axis == "x" else y
        if shift == 0:  # a slow one, less than a pixel: look further
            pixels = 2 if axis == "x" else 1
            last = grey(clip["frames"])[-1]
            moved = {str(s): torch.roll(grey(clip["frames"])[0], s, dims=pixels - 1) for s in (-1, 1, -2, 2, -3, 3)}
            shift = int(best(last, moved))
        right += np.sign(shift) == sign
    assert right >= 7


@pytest.mark.parametrize("name", ["zoom in", "zoom out"])
def test_zoom(source: ClipSampler, name: str) -> None:
    right = 0
    for index in range(8):
        frames = grey(source.clip(7, index, motion=name)["frames"])
        candidates = {f"zoom {'in' if z > 1 else 'out'} {z}": affine(frames[0], zoom=z) for z in (0.75, 0.9, 1.1, 1.3)}
        right += best(frames[-1], candidates).startswith(name)
    assert right >= 7


@pytest.mark.parametrize("name", ["rotate clockwise", "rotate counterclockwise"])
def test_rotation_is_the_contents_as_seen(source: ClipSampler, name: str) -> None:
    right = 0
    for index in range(8):
        clip = source.clip(11, index, motion=name)
        if clip["kind"] != "picture":  # a disc that turns looks the same
            right += 1
            continue
        frames = grey(clip["frames"])
        candidates = {f"{turn}": affine(frames[0], turn=turn) for turn in (-0.4, -0.15, 0.15, 0.4)}
        clockwise = float(best(frames[-1], candidates)) > 0
        right += clockwise == (name == "rotate clockwise")
    assert right >= 7


def test_no_border_shows_under_any_motion(source: ClipSampler) -> None:
    """Pictures of the fixture have no black: a border would."""
    for name in MOTIONS:
        for index in range(4):
            rng = np.random.default_rng([1, index])
            moved = MOTIONS[name](Timing(np.arange(FRAMES) / 6, 2.2, 1.0, rng))
            white = np.full((100, 140, 3), 255, np.uint8)
            frames = film(rng, white, sampling_grid(moved, np.arange(FRAMES) / 6, SIZE), centered=bool(index % 2))
            assert frames.min() == 255, name


def test_single_frames_of_motions_are_their_clips(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pan is seen as that very shift of the picture, as far as its place and rate say."""
    monkeypatch.setattr("dcrafter.tiny.clips.DIRECTED", ("pan left",))
    source = ClipSampler(data, size=SIZE, frames=FRAMES, clips=Clips(scenes=0.0, spread=0.0, speed=0.5))
    for index in range(6):
        drawn = source.later_frames(0, index)
        assert len(drawn["captions"]) == len(drawn["fps"]) == len(drawn["places"]) == 1
        assert "left" in drawn["captions"][0]
        place, fps = int(drawn["places"]), int(drawn["fps"])
        assert 1 <= place < FRAMES
        word = next((name for name, words in {"slow": SLOW, "fast": FAST}.items()
                     if set(words) & set(drawn["captions"][0].replace(",", "").split())), None)  # fmt: skip
        pace = 0.5 * (PACES[word][0] * PACES[word][1]) ** 0.5
        whole = np.clip(PAN_RATE * pace * (FRAMES - 1) / fps, *PAN_RANGE)
        shift = round(whole * place / (FRAMES - 1) * SIZE / 2)
        before, after = grey(drawn["frames"]).unbind()
        candidates = {str(by): torch.roll(before, by, dims=1) for by in range(-8, 9)}
        inside = (slice(None), slice(8, -8))
        nearest = min(candidates, key=lambda by: float((candidates[by] - after)[inside].abs().mean()))
        assert abs(int(nearest) - shift) <= 1


@pytest.mark.parametrize("shares", [{"cutouts": 1.0}, {"local": 1.0, "scenes": 0.0}])
def test_single_frames_of_parts_that_move(data: Path, shares: dict[str, float]) -> None:
    """Of a subject, the photograph behind it stays; of a whole image, it is the image at rest that moves."""
    source = ClipSampler(data, size=SIZE, frames=FRAMES, clips=Clips(**shares))
    phrases = [phrase for some in LOCAL_PHRASES.values() for phrase in some.train]
    for index in range(6):
        drawn = source.later_frames(0, index)
        first, *later = drawn["frames"]
        assert len(later) == 4
        assert any((frame != first).any() for frame in later)
        still = torch.stack([frame == first for frame in later]).all(0).all(-1).float().mean()
        assert still > 0.2 or "local" in shares
        words = " ".join(drawn["captions"])
        assert any(phrase.split("{x}")[-1].split("{adv}")[0].strip(" ,") in words for phrase in phrases)


def test_shares_of_clips(data: Path) -> None:
    def kinds(**shares: float) -> set[str]:
        source = ClipSampler(data, size=SIZE, frames=FRAMES, clips=Clips(**shares))
        return {source.clip(0, i)["kind"] for i in range(20)}

    assert kinds(animations=1.0) == {"animation"}
    assert kinds(animations=0.0, scenes=0.0) == {"picture"}
    assert kinds(animations=0.0, scenes=1.0) == {"scene"}
    source = ClipSampler(
        data, size=SIZE, frames=FRAMES, clips=Clips(animations=0.0, directed=1.0, spread=0.0, speed=0.5)
    )
    clips = [source.clip(0, i) for i in range(30)]
    assert {clip["motion"] for clip in clips} <= set(DIRECTED)
    assert len({round(clip["pace"], 6) for clip in clips}) == 3  # slow, fast, and neither


def test_words_of_pace_tell_the_rate(source: ClipSampler) -> None:
    paces: dict[str, list[float]] = {"slow": [], "fast": []}
    for index in range(200):
        clip = source.clip(2, index)
        if "slow" in clip["caption"] or "gent" in clip["caption"]:
            paces["slow"].append(clip["pace"])
        if "fast" in clip["caption"] or "quick" in clip["caption"] or "rapid" in clip["caption"]:
            paces["fast"].append(clip["pace"])
    assert min(map(len, paces.values())) > 3
    assert max(paces["slow"]) < 1 < min(paces["fast"])


def test_a_loop_goes_half_as_far_and_comes_back_slow_where_it_turns(data: Path) -> None:
    frames = 9
    source = ClipSampler(data, size=SIZE, frames=frames, clips=Clips(scenes=0.0))
    for index in range(30):
        plain, loop = (source.clip(4, index, loop=there) for there in (False, True))
        assert {k: v for k, v in plain.items() if k != "frames"} == {k: v for k, v in loop.items() if k != "frames"}
        assert torch.equal(loop["frames"], loop["frames"].flip(0))
        if loop["kind"] == "animation":
            assert torch.equal(loop["frames"][4], plain["frames"][4])
    for name in DIRECTED:
        loops = torch.stack([source.clip(4, i, motion=name, loop=True)["frames"] for i in range(10)])
        first, second, third, fourth = (float(frame_difference(loops[:, i : i + 2]).mean()) for i in range(4))
        assert first < 0.7 * second
        assert fourth < 0.7 * third


def test_still_stands_still(source: ClipSampler) -> None:
    frames = source.clip(0, 0, motion="still")["frames"]
    assert torch.equal(frames, frames[:1].expand_as(frames))


def test_new_words_are_not_the_trained_ones(source: ClipSampler) -> None:
    for name, phrases in (PHRASES | LOCAL_PHRASES).items():
        assert not set(phrases.train) & set(phrases.held_out)
        for pace in PACES:
            trained = {fill(phrase, "it", pace) for phrase in phrases.train}
            assert not {fill(phrase, "it", pace) for phrase in phrases.held_out} & trained, name
    assert source.clip(0, 1, motion="zoom in", new_words=True)["caption"] != source.clip(0, 1, motion="zoom in")


def test_a_folder_without_a_data_set_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no prepared data set"):
        ClipSampler(tmp_path)


def test_subjects_move_over_what_does_not(data: Path) -> None:
    source = ClipSampler(data, size=SIZE, frames=FRAMES, clips=Clips(animations=0.0, cutouts=1.0))
    clips = [source.clip(5, i) for i in range(60)]
    assert {clip["kind"] for clip in clips} == {"subject"}
    assert {clip["motion"] for clip in clips} >= {"bounce", "breathe", "dance", "fly", "nod", "run", "waves", "wind"}
    assert not {clip["motion"] for clip in clips} & {*FACE_MOTIONS, *DIRECTED}  # no label has a face
    labels = {
        label for clip in clips for label in ("block X", "block Y", "block Z", "disc") if label in clip["caption"]
    }
    assert labels == {"block X", "block Y", "disc"}  # Z is held out
    for clip in clips:
        corners = clip["frames"][:, [0, 0, -1, -1], [0, -1, 0, -1]].int()
        still = (corners == corners[:1]).all(dim=2).all(dim=0)
        assert still.sum() >= 2, clip["motion"]  # the photograph: subjects reach few corners


def test_whole_images_can_have_local_motions_and_light(data: Path) -> None:
    clips = Clips(animations=0.0, scenes=0.0, local=1.0)
    source = ClipSampler(data, size=SIZE, frames=FRAMES, clips=clips)
    drawn = [source.clip(5, i) for i in range(80)]
    assert {clip["motion"] for clip in drawn} == {*LOCAL_MOTIONS}
    glowing = next(clip for clip in drawn if clip["motion"] == "glow")
    red = glowing["frames"][..., 0].float().mean(dim=(1, 2))
    assert red[1:].max() > red[0] + 5


def test_pans_and_turns_can_be_all_that_is_directed(data: Path) -> None:
    clips = Clips(animations=0.0, directed=1.0, panned=1.0)
    source = ClipSampler(data, size=SIZE, frames=FRAMES, clips=clips)
    assert {source.clip(5, i)["motion"] for i in range(60)} == {*PANS_AND_TURNS}


def test_a_face_can_blink(data: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(data, tmp_path / "data")
    about = json.loads((folder / "index.json").read_text())
    for row in [*about["emoji"], *about["cutouts"]]:
        row["label"] = "smiling face"
    (folder / "index.json").write_text(json.dumps(about))
    source = ClipSampler(folder, size=SIZE, frames=FRAMES, clips=Clips(animations=0.0, cutouts=1.0))
    clips = [source.clip(5, i) for i in range(200)]
    assert {*FACE_MOTIONS} <= {clip["motion"] for clip in clips}
    assert any("yawn" in clip["caption"] for clip in clips)


def test_data_of_before_have_emoji_for_subjects(data: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(data, tmp_path / "data")
    about = json.loads((folder / "index.json").read_text())
    del about["cutouts"]
    (folder / "index.json").write_text(json.dumps(about))
    (folder / "cutouts.u8").unlink()
    source = ClipSampler(folder, size=SIZE, frames=FRAMES, clips=Clips(animations=0.0, cutouts=1.0))
    assert all("disc" in source.clip(5, i)["caption"] for i in range(10))
