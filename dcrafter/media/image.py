"""Pictures of any kind to 8-bit sRGB, to the model's frame size, and to and from its tensors."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from dcrafter.errors import InputError, NumericalError, UsageError
from dcrafter.install import install_hint
from dcrafter.settings import Fit

if TYPE_CHECKING:
    import torch

ImageSource = str | Path | bytes | BinaryIO | Image.Image | NDArray[Any]
Colour = tuple[int, int, int]

MAX_PIXELS = 100_000_000  # 400 MB decoded

_ADVICE: dict[type[OSError], str] = {
    FileNotFoundError: "Check the path",
    IsADirectoryError: "Name a picture inside it; dcrafter batch takes folders",
    PermissionError: "Make the file readable (chmod +r) or copy it elsewhere",
}
_HEIC_BRANDS = {b"ftyp" + brand for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")}
# What counts as white in Pillow's wide greyscale modes: the first value that nothing in the picture exceeds.
_WHITE = {"I": (255, 65535, 2**31 - 1), "F": (1, 255, 65535)}


def open_image(
    source: ImageSource, *, background: Colour = (255, 255, 255), max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """Opens any picture as 8-bit sRGB (mode "RGB"), upright, its first frame if it is animated.

    `source` is a path, the bytes of a file, a binary file object, a Pillow image, or an array (H, W),
    (H, W, 1), (H, W, 3) or (H, W, 4) of uint8, or of floats in 0…1. Transparency is composited over
    `background` (RGB, 0…255). An embedded colour profile is converted to sRGB; a damaged one is ignored.

    Raises InputError if the source cannot be read or has more than `max_pixels` pixels. The header tells
    that, before anything is decoded; files of more than 179 million pixels Pillow refuses in any case.
    """
    name = str(source) if isinstance(source, str | Path) else "the input"
    too_large = InputError(
        f"{name} has more than {max_pixels / 1e6:g} million pixels",
        "Scale it down first; the model works on small frames",
    )
    with warnings.catch_warnings():  # Pillow's remarks on odd files, and its own, laxer limit on pixels
        warnings.simplefilter("ignore")
        try:
            with _opened(source, name) as image:
                if image.width * image.height > max_pixels:
                    raise too_large
                if image.width * image.height == 0:
                    raise InputError(f"{name} has no pixels")
                return _to_srgb(image, background)
        except InputError:
            raise
        except Image.DecompressionBombError:
            raise too_large from None
        except Exception as error:  # decoders raise nearly anything on damaged data
            if isinstance(error, OSError) and error.strerror:  # it came from the system
                advice = _ADVICE.get(type(error), "")
                raise InputError(f"cannot read {name}: {error.strerror}", advice) from error
            reason = " ".join(str(error).split()) or type(error).__name__
            raise InputError(f"{name} cannot be decoded: {reason}", "The file is damaged or incomplete") from error


@contextmanager
def _opened(source: ImageSource, name: str) -> Iterator[Image.Image]:
    """The source as a Pillow image, not decoded yet."""
    if isinstance(source, Image.Image):
        yield source
    elif isinstance(source, np.ndarray):
        yield _from_array(source)
    elif isinstance(source, str | Path):
        with open(source, "rb") as file:
            yield _identify(file if file.seekable() else BytesIO(file.read()), name)
    elif isinstance(source, bytes):
        yield _identify(BytesIO(source), name)
    elif hasattr(source, "read"):
        yield _identify(BytesIO(source.read()), name)
    else:
        raise InputError(
            f"a picture cannot be made of {type(source).__name__}",
            "Give a path, bytes, a binary file, a Pillow image or a NumPy array",
        )


def _identify(file: BinaryIO, name: str) -> Image.Image:
    """Reads the header of a seekable file."""
    try:
        return Image.open(file)
    except UnidentifiedImageError:
        file.seek(0)
        head = file.read(12)
    if not head:
        raise InputError(f"{name} is empty (0 bytes)", "Download or export it again")
    if head[4:] not in _HEIC_BRANDS:
        raise InputError(f"{name} is not a picture", "Give a PNG, JPEG, WebP, TIFF, GIF, BMP, AVIF or HEIC file")
    try:
        import pillow_heif  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        raise InputError(
            f"{name} is a HEIC picture, which needs the package pillow-heif",
            f"Run `{install_hint('pillow-heif')}`, or convert the picture to JPEG",
        ) from None
    pillow_heif.register_heif_opener()
    return Image.open(file)


def _from_array(array: NDArray[Any]) -> Image.Image:
    """(H, W), (H, W, 1), (H, W, 3) or (H, W, 4), uint8 or floats in 0…1."""
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)) or array.size == 0:
        raise InputError(f"an array of shape {array.shape} is not a picture", "Give (H, W, 3), (H, W, 4) or (H, W, 1)")
    if np.issubdtype(array.dtype, np.floating):
        if not (array.min() >= -1e-3 and array.max() <= 1 + 1e-3):  # written so that NaN fails too
            raise InputError("an array of floats must lie in 0…1", "Divide by 255, or give uint8")
        array = np.rint(array.astype(np.float32).clip(0, 1) * 255).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise InputError(f"an array of {array.dtype} is not a picture", "Give uint8, or floats in 0…1")
    return Image.fromarray(array[..., 0] if array.shape[2:] == (1,) else array)


def _to_srgb(image: Image.Image, background: Colour) -> Image.Image:
    image.load()
    profile = image.info.get("icc_profile")
    with suppress(Exception):  # damaged EXIF data raises nearly anything, and must not cost the picture
        image = ImageOps.exif_transpose(image)
    if image.mode[0] in "IF":
        image = _wide_grey_to_8_bit(image)
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    if image.mode in ("1", "L", "LA"):
        image = image.convert("L")
    elif image.mode != "CMYK":
        image = image.convert("RGB")
    image = _apply_profile(image, profile)
    if alpha is None:
        return image
    canvas = Image.new("RGB", image.size, background)
    canvas.paste(image, mask=alpha)
    return canvas


def _wide_grey_to_8_bit(image: Image.Image) -> Image.Image:
    """Scales I;16, I and F to L; Pillow's own conversion cuts everything above 255 off."""
    values = np.nan_to_num(np.asarray(image).astype(np.float32))
    whites = _WHITE.get(image.mode, (65535,))
    white = next((white for white in whites if values.max() <= white), whites[-1])
    return Image.fromarray(np.rint(values * (255 / white)).clip(0, 255).astype(np.uint8))


def _apply_profile(image: Image.Image, profile: bytes | None) -> Image.Image:
    """An L, RGB or CMYK image with its ICC profile to sRGB."""
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(BytesIO(profile))
            mode = {"GRAY": "L", "RGB ": "RGB", "CMYK": "CMYK"}[source.profile.xcolor_space]
            pixels = image.convert("RGB") if (image.mode, mode) == ("L", "RGB") else image
            if pixels.mode == mode:
                srgb = ImageCms.createProfile("sRGB")
                converted = ImageCms.profileToProfile(pixels, source, srgb, outputMode="RGB")
                if converted is not None:
                    return converted
        except (ImageCms.PyCMSError, OSError, KeyError):
            pass  # a damaged or unusual profile: take the numbers as they are
    return image.convert("RGB")


def fit_image(
    image: Image.Image,
    width: int,
    height: int,
    fit: str = "crop",
    *,
    background: Colour = (0, 0, 0),
    resample: Image.Resampling = Image.Resampling.BILINEAR,
) -> Image.Image:
    """Brings an RGB image to `width` by `height` pixels.

    `crop` scales it to cover the frame and cuts off the rest evenly, `pad` scales it to fit inside, centred
    on `background` (RGB, 0…255), `stretch` ignores its aspect ratio. Bilinear, with the long side rounded
    down: the published preprocessing, pixel for pixel, wherever that fills the frame.

    Raises UsageError for another `fit`, InputError for a picture too narrow to be scaled.
    """
    if fit not in get_args(Fit):
        raise UsageError(f"there is no fit {fit!r}", f"Choose one of {', '.join(get_args(Fit))}")
    size = (width, height)
    wider = image.width * height >= width * image.height
    if fit != "stretch" and wider == (fit == "crop"):
        size = (max(1, image.width * height // image.height), height)
    elif fit != "stretch":
        size = (width, max(1, image.height * width // image.width))
    if size[0] * size[1] > MAX_PIXELS:
        raise InputError(
            f"a picture of {image.width}x{image.height} pixels is too narrow to fill {width}x{height}",
            "Crop it first, or use --fit pad",
        )
    canvas = Image.new("RGB", (width, height), background)
    scaled = image.resize(size, resample)
    canvas.paste(scaled, (round((width - size[0]) / 2), round((height - size[1]) / 2)))
    return canvas


def to_tensor(image: Image.Image) -> torch.Tensor:
    """An RGB image as the model's input: float32 (3, H, W) in [-1, 1]."""
    import torch  # here, so that a picture that cannot be read is said to be so before torch's seconds

    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float() / 127.5 - 1


def to_frames(video: torch.Tensor) -> NDArray[np.uint8]:
    """The model's output (3, T, H, W) in [-1, 1] as uint8 (T, H, W, 3); values outside are clamped.

    Raises NumericalError if anything in it is NaN or infinite.
    """
    video = video.detach().float().cpu()
    if not video.isfinite().all():
        raise NumericalError(
            "the decoded video holds NaN or infinite values",
            "The weights may be damaged, or not those of this model",
        )
    frames = ((video + 1) * 127.5).round().clamp(0, 255).byte()
    return np.ascontiguousarray(frames.permute(1, 2, 3, 0).numpy())


def match_colors(frames: torch.Tensor, pictures: torch.Tensor) -> torch.Tensor:
    """Frames (T, 3, H, W) with the mean and the contrast of each colour that the pictures have, all in [-1, 1].

    Pictures (1 or 2, 3, H, W): those of two run from the first one's to the last one's. A frame gets a gain and an
    offset a channel; it is matched with the pictures and never with the frame before, so that nothing adds up.
    """
    import torch

    was_std, was_mean = _deviation_and_mean(frames)
    share = torch.linspace(0, 1, len(frames)).view(-1, 1, 1, 1)
    std, mean = (torch.lerp(of[:1], of[-1:], share) for of in _deviation_and_mean(pictures))
    gain = (std / was_std.clamp_min(1e-3)).clamp(0.5, 2.0)
    return ((frames - was_mean) * gain + mean).clamp(-1, 1)


def _deviation_and_mean(pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each channel: (n, 3, H, W) → (n, 3, 1, 1) twice."""
    return pictures.std(dim=(2, 3), keepdim=True), pictures.mean(dim=(2, 3), keepdim=True)
