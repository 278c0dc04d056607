"""Checkpoint files: opened safely, told apart, checked whole, and loaded one component at a time.

Published `.ckpt` (only ever unpickled with `weights_only`) and `.safetensors` files, copies of them in any layout,
and our own `.safetensors`, which hold our key names and the configuration in their header. CLIP's towers may come
from a second file. Opening a file maps it into memory; a tensor takes memory of its own when it is loaded.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import secrets
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from dcrafter.config import MODELS, Command, ModelConfig
from dcrafter.errors import OutputError, WeightsError
from dcrafter.text import error_text
from dcrafter.weights import pickles
from dcrafter.weights.cache import HEADER, TOWERS, TOWERS_HEADER, find_towers, towers_named_by
from dcrafter.weights.identity import (
    RESCALE_TOLERANCE,
    identify,
    mismatch,
    odd_tables,
    refuse_descendants,
    rescale_base,
)
from dcrafter.weights.keys import to_ours, to_published, trailing_ones
from dcrafter.weights.layouts import published_names
from dcrafter.weights.structure import differences
from dcrafter.weights.trees import config_from_tree, read_tree

if TYPE_CHECKING:
    from dcrafter.weights.lora import LoRA

SKETCHES = "sketch_encoder"  # a component that comes in a file of its own
SKETCH_MARK = "input_hint_block.0.weight"
SKETCH_ADVICE = "Give ToonCrafter's: sketch_encoder.ckpt of https://huggingface.co/Doubiiu/ToonCrafter"
MAX_NAMES_IN_ERROR = 3
MAX_NAME = 120  # characters of each
MAX_SHARED = 4  # tensors may share storage: this many times the size of the file, all together


@dataclass(frozen=True)
class Checkpoint:
    """An open file whose keys and shapes are those of `config`. `tensors` are mapped, under our names.

    Attributes:
        path: the file.
        config: of the model that it holds.
        tensors: those of `towers` too.
        is_published: its keys are the published ones, which messages then name.
        assumption: what was taken for granted where keys do not tell, for people to read.
        oddity: what in the file contradicts its model, for people to read.
        size: of the file in bytes, when it was opened; 0 where there is none.
        towers: the file that CLIP's towers are taken from, where that is another.
        names_towers: this file says by their digest which towers those are.
        awaits_towers: they are to be downloaded before anything is loaded.
        sketches: the file of the sketch encoder, where there is one; `tensors` are without it.
        loras: merged into what is loaded; `tensors` are without them.
    """

    path: Path
    config: ModelConfig
    tensors: Mapping[str, Tensor]
    is_published: bool = False
    assumption: str = ""
    oddity: str = ""
    size: int = 0
    towers: Checkpoint | None = None
    names_towers: bool = False
    awaits_towers: bool = False
    sketches: Checkpoint | None = None
    loras: tuple[LoRA, ...] = ()

    @property
    def lacks_towers(self) -> bool:
        """Whether a tower of CLIP has to come from another file."""
        return not all(any(key.startswith(f"{tower}.") for key in self.tensors) for tower in TOWERS)

    def with_towers(self, path: Path) -> Checkpoint:
        """This checkpoint with CLIP's towers from another file: a whole checkpoint, or OpenCLIP's own.

        Raises WeightsError where the file cannot be read, or does not hold both.
        """
        opened = open_towers(path, self.config)
        tensors = {key: value for key, value in self.tensors.items() if key.partition(".")[0] not in TOWERS}
        tensors |= opened.tensors
        return replace(self, tensors=tensors, towers=opened, names_towers=False, awaits_towers=False)

    def check(self, model: nn.Module) -> None:
        """Compare every key and shape with a model's (it may be on the meta device), strictly.

        Raises WeightsError naming what is missing, unexpected or of another shape.
        """
        awaited = TOWERS if self.awaits_towers else ()
        expected = {
            key: tuple(value.shape) for key, value in model.state_dict().items() if key.partition(".")[0] not in awaited
        }
        found = {key: tuple(value.shape) for key, value in self.tensors.items()}
        components = {key.split(".")[0] for key in found}
        absent = [name for name, _ in model.named_children() if name not in {*components, *awaited}]
        if absent:
            raise WeightsError(
                f"{self.path} has no {' and no '.join(absent)}", "It is a pruned copy; use the whole checkpoint"
            )
        keys = [*expected, *(key for key in found if key not in expected)]
        shown_as = to_published(keys, self.config.name) if self.is_published else dict(zip(keys, keys, strict=True))
        complaints = {
            "lacks": [shown_as[key] for key in expected if key not in found],
            "has unexpected": [shown_as[key] for key in found if key not in expected],
            "has other shapes:": [
                f"{shown_as[key]} is {found[key]}, not {shape}"
                for key, shape in expected.items()
                if found.get(key, shape) != shape
            ],
        }
        found_wrong = "; ".join(f"{verb} {_some(keys)}" for verb, keys in complaints.items() if keys)
        if found_wrong:
            raise WeightsError(
                f"{self.path} is not the {self.config.name} model: it {found_wrong}", _advice(self.config, found)
            )

    def check_unchanged(self) -> None:
        """Raises WeightsError where the file has shrunk since: reading what was mapped would end the process."""
        try:
            size = self.path.stat().st_size if self.size else 0
        except OSError:
            return  # deleted or replaced: what is mapped stays until it is let go
        if size < self.size:
            raise WeightsError(
                f"{self.path} was cut to {size} bytes while it was in use",
                "Wait until the program that writes it has ended, then run the same again",
            )

    def load(
        self,
        model: nn.Module,
        component: str,
        *,
        device: torch.device,
        dtype: torch.dtype,
        leave_out: tuple[str, ...] = (),
    ) -> Generator[tuple[int, int], None, None]:
        """Load the weights of one component.

        Args:
            model: what gets the weights.
            component: the path of a module in it.
            device: where they go.
            dtype: the type they get.
            leave_out: parts of the component that stay as they are.

        Yields:
            The number of values loaded so far, and of all.

        Raises:
            WeightsError: the file was cut short since it was opened.
        """
        if self.towers and component.partition(".")[0] in TOWERS:
            towers = replace(self.towers, loras=self.loras)
            yield from towers.load(model, component, device=device, dtype=dtype, leave_out=leave_out)
            return
        if self.sketches and component == SKETCHES:
            yield from self.sketches.load(model, component, device=device, dtype=dtype)
            return
        module = model.get_submodule(component)
        prefixes = tuple(f"{part}." for part in leave_out)
        names = {key: f"{component}.{key}" for key in module.state_dict() if not key.startswith(prefixes)}
        total, done = sum(self.tensors[name].numel() for name in names.values()), 0
        state = {}
        with self._reading() as read:
            for key, name in names.items():
                self.check_unchanged()
                mapped = value = read(name)
                for lora in self.loras:
                    value = lora.merged(name, value)
                value = value.to(dtype).to(device)  # not every device has every type
                # A file that is cut short ends a process that still reads what was mapped (SIGBUS).
                state[key] = value.clone() if value is mapped else value
                done += state[key].numel()
                yield done, total
        module.load_state_dict(state, strict=not leave_out, assign=True)

    @contextmanager
    def _reading(self) -> Iterator[Callable[[str], Tensor]]:
        """What gives a tensor: from the mapping, or with $DCRAFTER_NO_MMAP, of our own files, by plain reads.

        Network file systems may fetch a mapping page by page.
        """
        if self.is_published or not os.environ.get("DCRAFTER_NO_MMAP"):
            yield self.tensors.__getitem__
            return
        with safe_open(self.path, framework="pt", backend="pread") as file:
            yield file.get_tensor

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash that identifies the weights and is cheap to compute: 64 hexadecimal digits.

        SHA-256 of the file's size and of 256 blocks spread evenly; a file up to 4 MB is hashed whole. With LoRA files
        that have a scale, of these too.
        """
        block, blocks = 16_384, 256
        size = self.path.stat().st_size
        digest = hashlib.sha256(str(size).encode())
        with self.path.open("rb") as file:
            for i in range(min(blocks, -(-size // block))):
                file.seek(i * block if size <= block * blocks else i * (size - block) // (blocks - 1))
                digest.update(file.read(block))
        if self.towers and not self.names_towers:
            digest.update(self.towers.fingerprint.encode())
        for lora in self.loras:
            if lora.scale:
                digest.update(f"{lora.digest}:{lora.scale!r}".encode())
        return digest.hexdigest()


def open_checkpoint(
    path: Path,
    *,
    model: str | None = None,
    model_config: Path | None = None,
    command: Command = "animate",
) -> Checkpoint:
    """Open a checkpoint and tell which model it holds. `Checkpoint.check` then compares it key by key.

    Args:
        model: the registry name it must be of; None takes what the keys say.
        model_config: a published YAML or JSON tree, for a checkpoint of unusual size.
        command: decides between 512 and 512-interp where nothing else does; their keys are the same.

    Raises:
        WeightsError: the file is missing, damaged, unsafe, or of another model.
    """
    raw, header = read_tensors(path)
    size = path.stat().st_size
    if HEADER in header:
        config = _config_from_header(path, header[HEADER])
        if model is not None and model != config.name:
            raise mismatch(path, config.name, model)
        opened = _checked(Checkpoint(path, config, raw, size=size))
        if not towers_named_by(path):
            return opened
        towers = find_towers(path)
        return replace(opened.with_towers(towers) if towers else opened, names_towers=True)
    raw = _renamed(path, raw, published_names(raw))
    assumption = ""
    if model_config is not None:
        config = config_from_tree(read_tree(model_config), model, command)
        if (base := rescale_base(raw)) is not None and abs(base - config.schedule.rescale_base) > RESCALE_TOLERANCE:
            raise WeightsError(
                f"{path} was trained with a base_scale of {base:.1f}, not {config.schedule.rescale_base:.1f}",
                f"{model_config} is the configuration of another model",
            )
    else:
        refuse_descendants(path, model)
        name, assumption = identify(path, raw, model, command)
        config = MODELS[name]
    oddity = odd_tables(path, raw, config.schedule)
    return _checked(Checkpoint(path, config, rename(path, raw), True, assumption, oddity, size))


def open_towers(path: Path, config: ModelConfig) -> Checkpoint:
    """Open CLIP's towers alone, of a whole checkpoint, of our own file of them, or of OpenCLIP's.

    Raises WeightsError where the file cannot be read, or does not hold both. `Checkpoint.check` looks at their sizes.
    """
    raw, header = read_tensors(path)
    size = path.stat().st_size
    is_ours = bool({HEADER, TOWERS_HEADER} & set(header))
    tensors = raw if is_ours else rename(path, _renamed(path, raw, published_names(raw)))
    tensors = {key: value for key, value in tensors.items() if key.partition(".")[0] in TOWERS}
    opened = Checkpoint(path, config, tensors, is_published=not is_ours, size=size)
    if opened.lacks_towers:
        raise WeightsError(f"{path} does not hold both towers of CLIP", "Name a whole checkpoint, or OpenCLIP's file")
    return opened


def open_sketch_encoder(path: Path, config: ModelConfig) -> Checkpoint:
    """Open ToonCrafter's sketch encoder: a file of its own, as published or within other modules.

    Raises WeightsError where the file cannot be read, or holds none. `Checkpoint.check` looks at keys and shapes.
    """
    raw, _ = read_tensors(path)
    prefix = next((key.removesuffix(SKETCH_MARK) for key in raw if key.endswith(SKETCH_MARK)), None)
    if prefix is None:
        raise WeightsError(f"{path} holds no sketch encoder", SKETCH_ADVICE)
    own = {key.removeprefix(prefix): value for key, value in raw.items() if key.startswith(prefix)}
    tensors = rename(path, {f"{SKETCHES}.{key}": value for key, value in own.items()})
    return Checkpoint(path, config, tensors, is_published=True, size=path.stat().st_size)


def _renamed(path: Path, raw: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """Tensors under the published names."""
    tensors = {names[key]: value for key, value in raw.items()}
    if len(tensors) < len(raw):
        raise WeightsError(f"{path} has two tensors for one, in other layouts")
    return tensors


def rename(path: Path, raw: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under published names → under ours."""
    tensors: dict[str, Tensor] = {}
    for key, value in raw.items():
        if (ours := to_ours(key)) is None:
            continue
        if ours in tensors:
            raise WeightsError(f"{path} has two tensors for one, of which {_short(key)} is the second")
        tensors[ours] = _drop_ones(value, trailing_ones(key))
    return tensors


def _checked(opened: Checkpoint) -> Checkpoint:
    """Raises WeightsError where a configuration that came with a file or in one asks for another model than it holds.

    From here on a model of this configuration is as large as the file, and may be built.
    """
    config = opened.config
    if config == MODELS.get(config.name):
        return opened
    found = list(differences(config, opened.tensors))
    if found:
        named = to_published([key for key, *_ in found], config.name) if opened.is_published else {}
        found_wrong = _some([f"{named.get(key, key)} is {is_}, not {wanted}" for key, is_, wanted in found])
        raise WeightsError(
            f"{opened.path} is not the {config.name} model: it has other shapes: {found_wrong}",
            "Its configuration is that of another model",
        )
    return opened


def save_checkpoint(tensors: Mapping[str, Tensor], config: ModelConfig, path: Path) -> None:
    """Write our own file.

    Args:
        tensors: under our names.
        config: goes into the header.
        path: what is there stays untouched until the new file is complete.

    Raises:
        OutputError: the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(8)}.part")
    try:
        contiguous = {key: value.contiguous() for key, value in tensors.items()}
        save_file(contiguous, temporary, metadata={HEADER: json.dumps(config.to_dict())})
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        raise OutputError(f"cannot write {path} ({error_text(error)})") from error
    finally:
        temporary.unlink(missing_ok=True)


# --- files ---


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors, mapped, and the header's text entries. The content decides the format, not the suffix.

    Raises WeightsError for a file that is missing, damaged, unsafe or of another kind.
    """
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise WeightsError(f"cannot read the checkpoint {path} ({error.strerror})") from error
    try:
        if start[8:] == b"{":
            with safe_open(path, framework="pt") as file:
                return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
        if start.startswith((b"PK", b"\x80")):
            tensors = _state_dict(pickles.load(path, is_zip=start.startswith(b"PK")))
            if sum(tensor.nbytes for tensor in tensors.values()) > MAX_SHARED * path.stat().st_size:
                raise ValueError("its tensors are far larger than the file")  # they repeat few values by a stride of 0
            return tensors, {}
    except WeightsError:
        raise
    except Exception as error:  # a damaged pickle raises nearly anything
        raise WeightsError(
            f"the checkpoint {path} is damaged or incomplete ({error_text(error)})",
            "Fetch it again, and compare its size with the original's",
        ) from error
    hint = " (a Git LFS pointer, not the file itself)" if start.startswith(b"version") else ""
    if start.lstrip().startswith(b"<"):
        hint = " (a web page, perhaps one to log in to a network)"
    raise WeightsError(
        f"{path} is no checkpoint{hint}",
        "Give a published .ckpt or .safetensors file, or one of this package's",
    )


def _state_dict(content: Any) -> dict[str, Tensor]:
    """A Lightning dict, DeepSpeed's `module` dict or a bare state dict → its tensors."""
    if isinstance(content, dict):
        content = content.get("state_dict", content.get("module", content))
        content = content.get("model", content) if isinstance(content, dict) else content
    if not isinstance(content, dict):
        raise ValueError("it holds no state dict")
    prefix = "_forward_module."
    return {
        key.removeprefix(prefix): value
        for key, value in content.items()
        if isinstance(key, str) and isinstance(value, Tensor)
    }


def _drop_ones(tensor: Tensor, ones: int) -> Tensor:
    """Without so many trailing dimensions of 1; as it is where they are something else, for `check` to say."""
    split = tensor.ndim - ones
    return tensor.reshape(tensor.shape[:split]) if set(tensor.shape[split:]) == {1} else tensor


def _config_from_header(path: Path, text: str) -> ModelConfig:
    try:
        return ModelConfig.from_dict(json.loads(text))
    except (TypeError, ValueError, RecursionError) as error:
        raise WeightsError(
            f"the header of {path} is not one this version reads ({error_text(error)})", "Update dcrafter"
        ) from error


def _advice(config: ModelConfig, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """What to do about a checkpoint of other shapes than its model's."""
    if any(key.startswith(f"{SKETCHES}.") for key in shapes):
        return SKETCH_ADVICE
    queries = shapes.get("projector.queries", ())
    frames = queries[1] // config.projector.queries_per_frame if len(queries) == 3 else config.frames
    kernel = shapes.get("unet.conv_in.weight", ())
    channels = kernel[1] if len(kernel) == 4 else config.unet.in_channels
    if channels != config.unet.in_channels:
        return f"Its UNet takes {channels} channels, not {config.unet.in_channels}: it is made for other inputs"
    if frames != config.frames:
        return (
            f"It is made for {frames} frames at once, not {config.frames}: give its configuration, --model-config FILE"
        )
    return "A model of another size needs its configuration: --model-config FILE"


def _some(names: list[str]) -> str:
    more = len(names) - MAX_NAMES_IN_ERROR
    return ", ".join(_short(name) for name in names[:MAX_NAMES_IN_ERROR]) + (f" and {more} more" if more > 0 else "")


def _short(text: str) -> str:
    return text if len(text) <= MAX_NAME else f"{text[:MAX_NAME]}…"
