"""A caption for a picture, by one of transformers' captioning models: BLIP (arXiv 2201.12086) unless told otherwise."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from dcrafter.errors import InputError, OutOfMemoryError, WeightsError

DEFAULT = "Salesforce/blip-image-captioning-base"
MAX_TOKENS = 40
BEAMS = 3  # as BLIP's authors caption

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Captioner:
    """A captioning model, opened whenever it is asked. See `caption`."""

    name: str = DEFAULT
    device: torch.device | str = "cpu"
    offline: bool = False
    silent: bool = False  # opens nothing and gives "", as a dry run wants it

    def __call__(self, image: Image.Image) -> str:
        return "" if self.silent else caption(image, self.name, device=self.device, offline=self.offline)


def caption(
    image: Image.Image, name: str = DEFAULT, *, device: torch.device | str = "cpu", offline: bool = False
) -> str:
    """What is seen in an RGB picture, in a line. The same picture, model and device give the same caption.

    `name` is a model on the hub, downloaded if it is not on this machine, or a folder as transformers saves them. Its
    memory is free again afterwards.

    Raises WeightsError where the model is not to be had or cannot be read, InputError where it does not caption.
    """
    with _quiet():
        try:
            return _say(image, *_load(name, offline), name, torch.device(device))
        finally:
            gc.collect()  # modules may refer to each other
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def _load(name: str, offline: bool) -> tuple[Any, Any]:
    """A processor and a model."""
    is_folder = Path(name).is_dir()
    for local in [True] if offline or is_folder else [True, False]:  # what is here already needs no network
        try:
            return _read(name, local)
        except Exception as error:
            failure = error
    if not isinstance(failure, OSError):
        raise _unsuitable(name, failure) from failure
    advice = f"Give a captioning model such as {DEFAULT}, or a folder that holds one, with --captioner"
    if is_folder:
        raise WeightsError(f"the folder {name} holds no captioner ({_line(failure)})", advice) from failure
    if offline:
        reason = f"the captioner {name} is not on this machine, and --offline was given"
        raise WeightsError(reason, "Leave out --offline once, or name a folder with --captioner") from failure
    raise WeightsError(f"the captioner {name} could not be downloaded ({_line(failure)})", advice) from failure


def _read(name: str, local: bool) -> tuple[Any, Any]:
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

    # Code that comes with weights is never run; left open, transformers would ask the user.
    options: dict[str, Any] = {"local_files_only": local, "trust_remote_code": False}
    AutoConfig.from_pretrained(name, **options)  # one small file first: who cannot be reached is asked no further
    processor = AutoProcessor.from_pretrained(name, **options)  # type: ignore[no-untyped-call]
    loaded: Any = AutoModelForImageTextToText.from_pretrained(name, output_loading_info=True, **options)
    model, told = loaded
    if missing := told["missing_keys"]:
        logger.warning("the captioner %s lacks %d of its weights; its captions may mean nothing", name, len(missing))
    return processor, model


@torch.inference_mode()
def _say(image: Image.Image, processor: Any, model: Any, name: str, device: torch.device) -> str:
    try:
        model = model.eval().to(device)
        inputs = processor(images=image, return_tensors="pt").to(device)
        tokens = model.generate(**inputs, max_new_tokens=MAX_TOKENS, num_beams=BEAMS, do_sample=False)
        text = processor.batch_decode(tokens, skip_special_tokens=True)[0]
    except Exception as error:
        raise _unsuitable(name, error) from error
    return " ".join(text.split())


def _unsuitable(name: str, error: Exception) -> Exception:
    """What to raise for whatever transformers stumbled over: models of other kinds fail in many ways."""
    if OutOfMemoryError.means(error):
        return error
    advice = f"Give a captioning model, such as {DEFAULT}, with --captioner"
    return InputError(f"{name} is no captioner that can be used ({_line(error)})", advice)


def _line(error: BaseException) -> str:
    said = str(error).strip().split("\n")[0]
    return said.rstrip(".") or type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' remarks and its bars for loading; those of downloads stay."""
    from transformers.utils import logging as theirs

    verbosity = theirs.get_verbosity()
    theirs.set_verbosity(logging.CRITICAL)
    hook = theirs.set_tqdm_hook(lambda make, given, named: make(*given, **named, disable=True))
    try:
        yield
    finally:
        theirs.set_tqdm_hook(hook)
        theirs.set_verbosity(verbosity)
