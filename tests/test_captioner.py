from __future__ import annotations

import gc
import json
import shutil
import socket
import threading
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipProcessor,
    modeling_utils,
)
from transformers.models.blip import BlipImageProcessor

from dcrafter import captioner
from dcrafter.captioner import DEFAULT, MAX_TOKENS, caption, is_here
from dcrafter.errors import DCrafterError, InputError, WeightsError

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "the", "cat", "dog", "sits", "runs", "tree", "red"]
SMALL = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "initializer_range": 0.1,  # at less, the words hardly depend on the picture
}


@pytest.fixture(scope="module")
def blip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A captioner of random numbers."""
    folder = tmp_path_factory.mktemp("blip")
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    tokenizer = BertTokenizer({word: index for index, word in enumerate(WORDS)})
    torch.manual_seed(1)
    special = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "sep_token_id": 3}
    config = BlipConfig(
        text_config={**SMALL, **special, "vocab_size": len(WORDS), "encoder_hidden_size": 16},
        vision_config={**SMALL, "image_size": 32, "patch_size": 8},
    )
    BlipForConditionalGeneration(config).save_pretrained(folder)
    BlipProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture
def picture(cat: Path) -> Image.Image:
    with Image.open(cat) as image:
        return image.convert("RGB")


def test_a_picture_has_a_caption_always_the_same(
    blip: Path, picture: Image.Image, capfd: pytest.CaptureFixture[str]
) -> None:
    capfd.readouterr()
    torch.manual_seed(0)
    said = caption(picture, str(blip), offline=True)
    torch.manual_seed(1)
    assert caption(picture, str(blip), device="cpu") == said
    assert said != caption(Image.new("RGB", picture.size, "red"), str(blip))
    words = said.split()
    assert 0 < len(words) <= MAX_TOKENS
    assert set(words) <= {*WORDS[5:]}
    assert capfd.readouterr() == ("", "")


def test_its_memory_is_free_afterwards(blip: Path, picture: Image.Image) -> None:
    caption(picture, str(blip))
    assert [thing for thing in gc.get_objects() if type(thing) is BlipForConditionalGeneration] == []


def test_lost_weights_are_warned_of(
    blip: Path, tmp_path: Path, picture: Image.Image, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(blip, tmp_path, dirs_exist_ok=True)
    weights = load_file(tmp_path / "model.safetensors")
    lost = [name for name in weights if name.startswith("text_decoder.bert.encoder.layer.1.")]
    save_file(
        {name: weights[name] for name in weights if name not in lost}, tmp_path / "model.safetensors", {"format": "pt"}
    )
    caption(picture, str(tmp_path))
    assert f"lacks {len(lost)} of its weights" in caplog.text


@pytest.fixture
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("the network is down")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between tries


@pytest.mark.usefixtures("_no_network")
@pytest.mark.parametrize(
    ("name", "offline", "kind", "said"),
    [
        ("nobody/nothing", True, WeightsError, "nobody/nothing is not on this machine, and --offline was given"),
        ("nobody/nothing", False, WeightsError, r"nobody/nothing is not on this machine, and \S+ cannot be reached"),
        ("no/such/folder", False, WeightsError, "no/such/folder is not on this machine, and"),
        ("empty", False, InputError, "empty is not a usable captioner"),
        ("hollow", False, WeightsError, "the folder hollow contains no captioner"),
        ("writer", False, InputError, "writer is not a usable captioner"),
        ("damaged", False, InputError, "damaged is not a usable captioner"),
        ("foreign", False, InputError, "foreign is not a usable captioner"),
    ],
)
def test_what_does_not_caption_is_said_in_a_line(
    blip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, picture: Image.Image,
    name: str, offline: bool, kind: type[DCrafterError], said: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    for copy in ("hollow", "writer", "damaged", "foreign"):
        shutil.copytree(blip, copy)
    Path("hollow", "model.safetensors").unlink()
    Path("writer", "config.json").write_text(json.dumps({"model_type": "gpt2", "n_layer": 1, "n_embd": 8, "n_head": 1}))
    Path("damaged", "model.safetensors").write_bytes(b"not weights")
    Path("foreign", "config.json").write_text(
        json.dumps({"model_type": "strange", "auto_map": {"AutoConfig": "code.Config", "AutoProcessor": "code.Config"}})
    )
    Path("foreign", "code.py").write_text("from pathlib import Path\nPath('has-run').touch()\n")
    with pytest.raises(kind, match=said) as caught:
        caption(picture, name, offline=offline)
    assert "\n" not in str(caught.value)
    assert "--captioner" in caught.value.advice
    assert not Path("has-run").exists()


def test_without_a_network_that_is_said_at_once(picture: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts: list[object] = []

    def refuse(*arguments: object, **_: object) -> None:
        attempts.append(arguments)
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it tries again"))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.invalid")
    monkeypatch.setattr("huggingface_hub.utils._detect_agent._registry", None, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.AGENT_HARNESSES_PATH", "nowhere", raising=False)
    with pytest.raises(WeightsError, match=r"hub\.invalid cannot be reached") as caught:
        caption(picture, "nobody/nothing")
    assert len(attempts) == 1
    assert "-p in place of --auto-prompt" in caught.value.advice
    assert "blip" not in str(caught.value)  # the very model that cannot be had


def test_a_name_that_takes_long_to_resolve_is_given_up(picture: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()

    def wait(*_: object) -> None:
        ended.wait()
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "create_connection", wait)
    monkeypatch.setattr(captioner, "REACH_SECONDS", 0.01)
    monkeypatch.setattr(urllib.request, "getproxies", dict)
    with pytest.raises(WeightsError, match="cannot be reached"):
        caption(picture, "nobody/nothing")
    ended.set()


def test_the_default_captioner_is_one_commit(picture: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def refuse(name: str, **options: Any) -> None:
        asked.append(options)
        raise OSError("not here")

    monkeypatch.setattr(AutoConfig, "from_pretrained", refuse)
    assert not is_here(DEFAULT)
    with pytest.raises(WeightsError):
        caption(picture, offline=True)
    assert [len(options["revision"]) for options in asked] == [40, 40]
    assert not any(options["trust_remote_code"] for options in asked)


@pytest.mark.parametrize(
    ("hub", "status", "tokens"),
    [
        ("https://hub.invalid", 401, [False, False, None]),
        ("https://hub.invalid", 404, [False, False]),
        ("http://hub.invalid", 401, [False, False]),
    ],
)
def test_a_token_goes_encrypted_and_where_it_is_asked_for(
    picture: Image.Image, monkeypatch: pytest.MonkeyPatch, hub: str, status: int, tokens: list[object]
) -> None:
    """None stands for the user's token: first on this machine, then from the hub without one and with it."""
    asked = []

    def refuse(name: str, **options: Any) -> None:
        asked.append(options["token"])
        answer = RuntimeError("refused")
        answer.response = SimpleNamespace(status_code=status)  # type: ignore[attr-defined]
        raise OSError("not there") from (None if options["local_files_only"] else answer)

    monkeypatch.setattr(AutoConfig, "from_pretrained", refuse)
    monkeypatch.setattr(captioner, "_check_reachable", lambda name: None)
    monkeypatch.setenv("HF_ENDPOINT", hub)
    with pytest.raises(WeightsError):
        caption(picture)
    assert asked == tokens


def test_attention_that_a_configuration_names_is_not_loaded(
    blip: Path, tmp_path: Path, picture: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(blip, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    for part in (config, config["text_config"], config["vision_config"]):
        part["attn_implementation"] = part["_attn_implementation"] = "somebody/kernels"
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded: list[object] = []
    monkeypatch.setattr(modeling_utils, "lazy_import_flash_attention", lambda *given, **_: loaded.append(given))
    assert caption(picture, str(tmp_path)) == caption(picture, str(blip))
    assert not loaded
