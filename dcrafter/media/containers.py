"""MP4 and WebM, by PyAV."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcrafter.media.encoding import EncoderError, Encoding

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.video.stream import VideoStream

    from dcrafter.media.encoding import Frames


@dataclass(frozen=True)
class Codec:
    """PyAV's encoder for a codec, its default options, and its tag in the container if FFmpeg's own is not right."""

    encoder: str
    options: dict[str, str] = field(default_factory=dict)
    tag: str = ""


CODECS: dict[str, Codec] = {
    "h264": Codec("libx264", {"crf": "18"}),
    "h265": Codec("libx265", {"crf": "20", "x265-params": "log-level=error"}, tag="hvc1"),  # Apple plays no other tag
    "vp9": Codec("libvpx-vp9", {"crf": "24", "b": "0", "row-mt": "1"}),  # the CRF counts at bit rate 0 only
    "av1": Codec("libsvtav1", {"crf": "24"}),
}


def write_mp4(frames: Frames, path: Path, encoding: Encoding) -> None:
    """Write an MP4 with its index first, so that it plays while it loads."""
    _write(frames, path, encoding, "mp4", {"movflags": "+faststart"})


def write_webm(frames: Frames, path: Path, encoding: Encoding) -> None:
    """Write a WebM."""
    _write(frames, path, encoding, "webm", {})


def _write(frames: Frames, path: Path, encoding: Encoding, container: str, options: dict[str, str]) -> None:
    import av
    from av.video.reformatter import ColorRange, Colorspace, Interpolation

    with av.open(str(path), "w", format=container, options=options) as output:
        if encoding.comment is not None:
            output.metadata["comment"] = encoding.comment
        try:
            stream = _open_stream(output, encoding, *frames.shape[1:3])
        except (ValueError, TypeError, av.error.FFmpegError) as error:
            raise EncoderError(str(error)) from error
        for frame in frames:
            converted = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(
                format="yuv420p",
                dst_colorspace=Colorspace.ITU709,
                dst_color_range=ColorRange.MPEG,
                interpolation=Interpolation.AREA,
            )
            output.mux(stream.encode(converted))
        output.mux(stream.encode(None))


def _open_stream(output: OutputContainer, encoding: Encoding, height: int, width: int) -> VideoStream:
    """Add a video stream and open its encoder. Raises whatever PyAV does for names and options it refuses."""
    import av
    from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

    codec = CODECS.get(encoding.codec, Codec(encoding.codec))
    if codec.encoder == "libsvtav1":
        os.environ.setdefault("SVT_LOG", "1")  # it logs to stderr and has no option against it
    stream: Any = output.add_stream(codec.encoder, rate=Fraction(encoding.fps).limit_denominator(1001))
    if not isinstance(stream, av.VideoStream):
        raise ValueError(f"{encoding.codec} encodes no video")
    stream.height, stream.width = height, width
    stream.pix_fmt = "yuv420p"
    crf = {} if encoding.crf is None else {"crf": str(encoding.crf)}
    stream.options = {**codec.options, **crf}
    context = stream.codec_context
    if codec.tag:
        context.codec_tag = codec.tag
    # Players guess the matrix of untagged video.
    context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
    context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
    context.open()
    return stream
