"""One video of each container in a browser, which is a second opinion beside the libraries that other tests read with.

It is given the files by a server on loopback and sends back what it saw.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from loopback import Reply, served

from dcrafter.media.video import read_settings, write_video

pytestmark = pytest.mark.slow

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FPS, FRAMES, HEIGHT, WIDTH = 16.0, 16, 64, 96
PAGE = """<!doctype html><body><script>
async function seen(name) {
  if (/mp4|webm/.test(name)) {
    const video = document.createElement("video");
    video.muted = true; video.src = name; document.body.append(video);
    await new Promise((done, failed) => { video.onended = done; video.onerror = failed; video.play(); });
    const quality = video.getVideoPlaybackQuality();
    return [quality.totalVideoFrames, video.duration, video.videoWidth, video.videoHeight];
  }
  const reply = await fetch(name);
  const type = {gif: "image/gif", webp: "image/webp", apng: "image/png"}[name.split(".")[1]];
  const decoder = new ImageDecoder({data: await reply.arrayBuffer(), type});
  await decoder.tracks.ready;
  await decoder.completed;
  const count = decoder.tracks.selectedTrack.frameCount;
  let seconds = 0, image;
  for (let i = 0; i < count; i++) {
    ({image} = await decoder.decode({frameIndex: i}));
    seconds += image.duration / 1e6;
  }
  return [count, seconds, image.displayWidth, image.displayHeight];
}
(async () => {
  const found = {};
  for (const name of NAMES) found[name] = await seen(name).catch(String);
  await fetch("/done", {method: "POST", body: JSON.stringify(found)});
})();
</script>"""


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
def test_a_browser_plays_every_container(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (FRAMES, HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8)
    frames = frames.repeat(8, axis=1).repeat(8, axis=2)
    names = [f"video.{suffix}" for suffix in ("mp4", "webm", "gif", "webp", "apng")]
    for name in names:
        write_video(frames, tmp_path / name, fps=FPS, settings={"seed": 1})
        assert read_settings(tmp_path / name) == {"seed": 1}
    found = look(str(BROWSER), tmp_path, names)
    assert found.keys() == set(names)
    for name, (count, seconds, width, height) in found.items():
        assert (count, width, height) == (FRAMES, WIDTH, HEIGHT), name
        assert seconds == pytest.approx(FRAMES / FPS, abs=0.06), name


def look(browser: str, folder: Path, names: list[str]) -> dict[str, list[float]]:
    """What the browser says of each file."""
    found: dict[str, list[float]] = {}
    done = threading.Event()

    def answer(path: str, posted: bytes) -> Reply:
        name = path.lstrip("/")
        if posted:
            found.update(json.loads(posted))
            done.set()
        page = PAGE.replace("NAMES", json.dumps(names)).encode()
        return 200, {}, page if name == "" else (folder / name).read_bytes() if name in names else b""

    with served(answer) as address, TemporaryDirectory() as profile:
        options = ["--headless", "--no-sandbox", "--autoplay-policy=no-user-gesture-required", "--disable-gpu"]
        process = subprocess.Popen(
            [browser, *options, f"--user-data-dir={profile}", address], stderr=subprocess.DEVNULL
        )
        finished = done.wait(120)
        process.terminate()
        process.wait()
    assert finished, f"{browser} did not answer"
    return found
