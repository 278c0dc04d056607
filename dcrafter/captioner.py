"""A caption for an image, by one of transformers' captioning models; BLIP (arXiv 2201.12086) by default."""

from __future__ import annotations

import gc
import logging
import os
import socket
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import torch
from PIL import Image

from dcrafter.errors import InputError, OutOfMemoryError, WeightsError
from dcrafter.text import error_text

DEFAULT = "Salesforce/blip-image-captioning-base"
REVISIONS = {DEFAULT: "82a37760796d32b1411fe092ab5d4e227313294b"}  # what others push there later is not taken
MAX_TOKENS = 40
BEAMS = 3  # as BLIP's authors caption
REACH_SECONDS = 5.0  # for a connection to the hub; its client tries for half a minute

HUB = "https://huggingface.co"
WITHOUT = "give a folder with --captioner, or a prompt with -p in place of --auto-prompt"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Captioner:
    """A captioning model, loaded for each call. See `caption`."""

    name: str = DEFAULT
    device: torch.device | str = "cpu"
    offline: bool = False
    silent: bool = False  # load nothing and return "", for dry runs

    def __call__(self, image: Image.Image) -> str:
        return "" if self.silent else caption(image, self.name, device=self.device, offline=self.offline)


def is_here(name: str) -> bool:
    """True if a captioning model is on this machine."""
    from transformers import AutoConfig

    with _quiet():
        try:
            AutoConfig.from_pretrained(name, **_options(name, local=True))
        except Exception:  # of many kinds, for names that are none too
            return False
    return True


def caption(
    image: Image.Image, name: str = DEFAULT, *, device: torch.device | str = "cpu", offline: bool = False
) -> str:
    """Describe an RGB image in one line.

    The same image, model and device give the same caption. The model's memory is freed afterwards.

    Args:
        image: mode "RGB".
        name: a model on the hub, downloaded if missing, or a folder as transformers saves them.
        device: where it runs.
        offline: download nothing.

    Raises:
        WeightsError: the model is missing, out of reach or damaged.
        InputError: it is no captioning model.
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
    failure: Exception
    try:  # what is here already needs no network
        return _read(name, local=True)
    except Exception as error:
        failure = error
    if not offline and not is_folder:
        _check_reachable(name)
        try:
            return _read(name, local=False)
        except Exception as error:
            failure = error
        if _asks_for_token(failure) and _hub().startswith("https:"):
            try:
                return _read(name, local=False, token=None)
            except Exception as error:
                failure = error
    if not isinstance(failure, OSError):
        raise _unsuitable(name, failure) from failure
    if is_folder:
        advice = "Give a folder as transformers saves captioning models with --captioner"
        raise WeightsError(f"the folder {name} contains no captioner ({error_text(failure)})", advice) from failure
    if offline:
        reason = f"the captioner {name} is not on this machine, and --offline was given"
        raise WeightsError(reason, f"Leave out --offline once, or {WITHOUT}") from failure
    advice = f"Check its name, or {WITHOUT}"
    raise WeightsError(f"the captioner {name} could not be downloaded ({error_text(failure)})", advice) from failure


def _hub() -> str:
    return os.environ.get("HF_ENDPOINT") or HUB


def _asks_for_token(error: BaseException | None) -> bool:
    """Whether a failure comes from an answer 401: what is for those only who say who they are."""
    while error is not None and getattr(getattr(error, "response", None), "status_code", None) != 401:
        error = error.__cause__ or error.__context__
    return error is not None


def _check_reachable(name: str) -> None:
    """Raises WeightsError soon where no connection to the hub is to be had."""
    if urllib.request.getproxies():  # then the proxy decides
        return
    address = _hub()
    reached = threading.Event()

    def connect() -> None:
        with suppress(OSError, ValueError):  # an address may be none
            hub = urlsplit(address)
            port = hub.port or (80 if hub.scheme == "http" else 443)
            socket.create_connection((hub.hostname or "", port), REACH_SECONDS).close()
            reached.set()

    connecting = threading.Thread(target=connect, daemon=True)  # resolving a name has no time limit of its own
    connecting.start()
    connecting.join(REACH_SECONDS)
    if not reached.is_set():
        raise WeightsError(
            f"the captioner {name} is not on this machine, and {address} cannot be reached",
            f"Try again where there is a network, or {WITHOUT}",
        )


def _options(name: str, local: bool, token: Literal[False] | None = False) -> dict[str, Any]:
    """How transformers reads any file: code that comes with weights is never run (left open, it asks the user).

    With a `token` of None the user's own goes along, if there is one.
    """
    revision = REVISIONS.get(name, "main")
    return {"local_files_only": local, "trust_remote_code": False, "revision": revision, "token": token}


def _read(name: str, local: bool, token: Literal[False] | None = False) -> tuple[Any, Any]:
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

    options = _options(name, local, token)
    # One small file first: who cannot be reached is asked no further.
    config: Any = AutoConfig.from_pretrained(name, **options)
    config._attn_implementation = "eager"  # kernels that a file names would be fetched from the hub, and run
    processor = AutoProcessor.from_pretrained(name, **options)  # type: ignore[no-untyped-call]
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")  # else a thread asks the hub to convert the weights
    loaded: Any = AutoModelForImageTextToText.from_pretrained(
        name, config=config, output_loading_info=True, attn_implementation="eager", **options
    )
    model, info = loaded
    if missing := info["missing_keys"]:
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
    """The error to raise for any failure in transformers: models of other kinds fail in many ways."""
    if OutOfMemoryError.means(error):
        return error
    advice = f"Give a captioning model, such as {DEFAULT}, with --captioner"
    return InputError(f"{name} is not a usable captioner ({error_text(error)})", advice)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence transformers' warnings and loading bars, not its download bars."""
    from transformers.utils import logging as theirs

    verbosity = theirs.get_verbosity()
    theirs.set_verbosity(logging.CRITICAL)
    hook = theirs.set_tqdm_hook(lambda make, given, named: make(*given, **named, disable=True))
    try:
        yield
    finally:
        theirs.set_tqdm_hook(hook)
        theirs.set_verbosity(verbosity)
