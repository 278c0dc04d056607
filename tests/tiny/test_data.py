from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dcrafter.errors import InputError
from dcrafter.metrics.pixels import frame_difference
from dcrafter.tiny.captions import FAST, PHRASES, SLOW, fill
from dcrafter.tiny.data import (
    DIRECTED,
    MOTIONS,
    PACES,
    PAN_RANGE,
    PAN_RATE,
    Draws,
    Source,
    make_motion,
    sampling_grid,
)
from dcrafter.tiny.recipe import Clips
from dcrafter.training.videos import swing

SIZE, FRAMES = 32, 6


@pytest.fixture(scope="module")
def source(data: Path) -> Source:
    return Source(data, size=SIZE, frames=FRAMES)


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


def test_the_same_index_gives_the_same_clip_and_another_does_not(data: Path, source: Source) -> None:
    again = Draws(Source(data, size=SIZE, frames=FRAMES).clip, seed=3, length=20)
    for index in range(20):
        first, second = source.clip(3, index), again[index]
        assert torch.equal(first["frames"], second["frames"])
        assert {k: v for k, v in first.items() if k != "frames"} == {k: v for k, v in second.items() if k != "frames"}
    assert not torch.equal(source.clip(3, 0)["frames"], source.clip(4, 0)["frames"])
    stills = Draws(source.still, seed=3, length=5)
    assert torch.equal(stills[4], source.still(3, 4))
    assert not torch.equal(stills[4], stills[3])


def test_shapes_and_kinds(source: Source) -> None:
    clips = [source.clip(0, i) for i in range(60)]
    assert {clip["kind"] for clip in clips} == {"animation", "picture", "scene"}
    assert {clip["fps"] for clip in clips} == {24, 12, 8, 6}
    for clip in clips:
        assert clip["frames"].shape == (FRAMES, SIZE, SIZE, 3)
        assert clip["frames"].dtype == torch.uint8
    assert source.still(0, 0).shape == (SIZE, SIZE, 3)


def test_held_out_is_never_drawn_in_training(data: Path, source: Source) -> None:
    """In the fixture only what is held out is called F or 3."""
    for index in range(150):
        caption = source.clip(1, index)["caption"]
        assert "disc F" not in caption
        assert "picture 3" not in caption
    held_out = Source(data, "held-out", size=SIZE, frames=FRAMES)
    captions = [held_out.clip(1, index)["caption"] for index in range(40)]
    assert not [caption for caption in captions if "picture 0" in caption or "disc A" in caption]
    assert any("disc F" in caption for caption in captions)
    assert all(row["split"] == "train" for row in [*source.emoji, *source.animated, *source.pictures])


@pytest.mark.parametrize(("name", "axis", "sign"), [
    ("pan left", "x", 1), ("pan right", "x", -1), ("pan up", "y", 1), ("pan down", "y", -1),
])  # fmt: skip
def test_a_pan_is_the_cameras(source: Source, name: str, axis: str, sign: int) -> None:
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
def test_zoom(source: Source, name: str) -> None:
    right = 0
    for index in range(8):
        frames = grey(source.clip(7, index, motion=name)["frames"])
        candidates = {f"zoom {'in' if z > 1 else 'out'} {z}": affine(frames[0], zoom=z) for z in (0.75, 0.9, 1.1, 1.3)}
        right += best(frames[-1], candidates).startswith(name)
    assert right >= 7


@pytest.mark.parametrize("name", ["rotate clockwise", "rotate counterclockwise"])
def test_rotation_is_the_contents_as_seen(source: Source, name: str) -> None:
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


def test_a_marker_moves_as_each_motion_says() -> None:
    """The pixel that shows the content at (0.5, 0), right of the middle, tells all directions."""
    seconds = np.arange(8) / 8
    end = {}
    for name in DIRECTED:
        motion = make_motion(name, 1.0, seconds, np.random.default_rng(0))
        grid = sampling_grid(motion, seconds, 64)
        distance = np.linalg.norm(grid - [0.5, 0.0], axis=-1)
        rows, columns = np.unravel_index(distance.reshape(8, -1).argmin(-1), (64, 64))
        end[name] = (columns[-1] - columns[0], rows[-1] - rows[0])
    assert end["pan left"][0] > 4
    assert end["pan right"][0] < -4
    assert end["pan up"][1] > 4
    assert end["pan down"][1] < -4
    assert end["zoom in"][0] > 2
    assert end["zoom out"][0] < -2
    assert end["rotate clockwise"][1] > 2  # right of the middle, clockwise is down
    assert end["rotate counterclockwise"][1] < -2


def test_motions_begin_at_rest_and_without_spread_are_one() -> None:
    seconds = np.arange(8) / 8
    line = (np.arange(32) + 0.5) / 16 - 1
    for name in MOTIONS:
        spread, one, other = (
            sampling_grid(make_motion(name, 1.0, seconds, np.random.default_rng(seed), spread=by), seconds, 32)
            for seed, by in ((0, 1.0), (1, 0.0), (2, 0.0))
        )
        for grid in (spread, one):
            np.testing.assert_allclose(grid[0], np.stack(np.meshgrid(line, line), axis=-1), atol=1e-6)
        assert np.array_equal(one, other) == (name != "drift"), name
        assert np.array_equal(spread, one) == (name in (*DIRECTED, "still")), name
    sway = make_motion("sway", 1.0, seconds, np.random.default_rng(0))
    assert sway.x[1] > 0
    assert sway.x.min() < 0


def test_a_shake_turns_slower_than_frames_can_show() -> None:
    for name, seconds in (("clip", np.linspace(0, 2.5, 1501)), ("loop", swing(1501) * 1.25)):
        shake = make_motion("shake", 1.4, seconds, np.random.default_rng(0), spread=0)
        for path in (shake.x, shake.y, shake.turn):
            turns = np.flatnonzero(np.diff(np.sign(np.diff(path))))
            assert np.diff(turns).min() > 100, name  # a frame in sixteen


def test_no_border_shows_under_any_motion(source: Source) -> None:
    """Pictures of the fixture have no black: a border would."""
    for name in MOTIONS:
        for index in range(4):
            rng = np.random.default_rng([1, index])
            motion = make_motion(name, 2.2, np.arange(FRAMES) / 6, rng)
            white = np.full((100, 140, 3), 255, np.uint8)
            frames = source._filmed(
                rng, white, sampling_grid(motion, np.arange(FRAMES) / 6, SIZE), centred=bool(index % 2)
            )
            assert frames.min() == 255, name


def test_single_frames_of_motions_are_their_clips(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pan is seen as that very shift of the picture, as far as its place and rate say."""
    monkeypatch.setattr("dcrafter.tiny.data.DIRECTED", ("pan left",))
    source = Source(data, size=SIZE, frames=FRAMES, clips=Clips(scenes=0.0, spread=0.0, speed=0.5))
    for index in range(6):
        drawn = source.motions(0, index)
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


def test_shares_of_clips(data: Path) -> None:
    def kinds(**shares: float) -> set[str]:
        source = Source(data, size=SIZE, frames=FRAMES, clips=Clips(**shares))
        return {source.clip(0, i)["kind"] for i in range(20)}

    assert kinds(animations=1.0) == {"animation"}
    assert kinds(animations=0.0, scenes=0.0) == {"picture"}
    assert kinds(animations=0.0, scenes=1.0) == {"scene"}
    source = Source(data, size=SIZE, frames=FRAMES, clips=Clips(animations=0.0, directed=1.0, spread=0.0, speed=0.5))
    clips = [source.clip(0, i) for i in range(30)]
    assert {clip["motion"] for clip in clips} <= set(DIRECTED)
    assert len({round(clip["pace"], 6) for clip in clips}) == 3  # slow, fast, and neither


def test_words_of_pace_tell_the_rate(source: Source) -> None:
    paces: dict[str, list[float]] = {"slow": [], "fast": []}
    for index in range(200):
        clip = source.clip(2, index)
        if "slow" in clip["caption"] or "gent" in clip["caption"]:
            paces["slow"].append(clip["pace"])
        if "fast" in clip["caption"] or "quick" in clip["caption"] or "rapid" in clip["caption"]:
            paces["fast"].append(clip["pace"])
    assert min(map(len, paces.values())) > 3
    assert max(paces["slow"]) < 1 < min(paces["fast"])


def test_a_lower_fps_moves_more() -> None:
    shifts = []
    for fps in (24, 12, 6):
        motion = make_motion("pan left", 1.0, np.arange(16) / fps, np.random.default_rng(0))
        shifts.append(motion.x[-1])
    assert all(slow < fast for slow, fast in pairwise(shifts))


def test_a_loop_goes_half_as_far_and_comes_back_slow_where_it_turns(data: Path) -> None:
    frames = 9
    source = Source(data, size=SIZE, frames=frames, clips=Clips(scenes=0.0))
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


def test_still_stands_still(source: Source) -> None:
    frames = source.clip(0, 0, motion="still")["frames"]
    assert torch.equal(frames, frames[:1].expand_as(frames))


def test_new_words_are_not_the_trained_ones(source: Source) -> None:
    for name, phrases in PHRASES.items():
        assert not set(phrases.train) & set(phrases.held_out)
        for pace in PACES:
            trained = {fill(phrase, "it", pace) for phrase in phrases.train}
            assert not {fill(phrase, "it", pace) for phrase in phrases.held_out} & trained, name
    assert source.clip(0, 1, motion="zoom in", new_words=True)["caption"] != source.clip(0, 1, motion="zoom in")


def test_a_folder_without_a_data_set_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no prepared data set"):
        Source(tmp_path)
