"""Our towers and tokenizer against open_clip's."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transformer import TextTransformer, VisionTransformer
from torch import Tensor, nn

from dcrafter.config import MODELS, CLIPConfig, TextConfig, VisionConfig
from dcrafter.errors import WeightsError
from dcrafter.models import tokenizer
from dcrafter.models.clip import ImageEncoder, TextEncoder
from dcrafter.models.tokenizer import is_cut, load_tokenizer, tokenize

SMALL = CLIPConfig(
    embed_dim=10,
    vision=VisionConfig(image_size=32, layers=3, width=48, head_width=16, patch_size=8),
    text=TextConfig(width=48, heads=3, layers=3),
)
SHALLOW = replace(  # ViT-H-14 as wide as it is, of two layers
    MODELS["512"].clip,
    vision=replace(MODELS["512"].clip.vision, layers=2),
    text=replace(MODELS["512"].clip.text, layers=2),
)
CONFIGS = {"small": SMALL, "tiny": MODELS["tiny"].clip, "ViT-H-14": MODELS["512"].clip}


def their_text(config: CLIPConfig) -> TextTransformer:
    text = config.text
    return TextTransformer(
        context_length=text.context_length, vocab_size=text.vocab_size, width=text.width, heads=text.heads,
        layers=text.layers, mlp_ratio=text.mlp_ratio, output_dim=config.embed_dim,
    )  # fmt: skip


def their_image(config: CLIPConfig) -> VisionTransformer:
    vision = config.vision
    return VisionTransformer(
        image_size=vision.image_size, patch_size=vision.patch_size, width=vision.width, layers=vision.layers,
        heads=vision.width // vision.head_width, mlp_ratio=vision.mlp_ratio, output_dim=config.embed_dim,
    )  # fmt: skip


def close(ours: Tensor, theirs: Tensor) -> None:
    """To 2e-6 of the largest value: products of other shapes are summed in another order."""
    assert ours.shape == theirs.shape
    assert float((ours - theirs).abs().max()) <= 2e-6 * float(theirs.abs().max())


@pytest.mark.parametrize("name", CONFIGS)
def test_towers_have_the_weights_of_open_clip(name: str) -> None:
    with torch.device("meta"):
        pairs = [
            (TextEncoder(CONFIGS[name]), their_text(CONFIGS[name])),
            (ImageEncoder(CONFIGS[name]), their_image(CONFIGS[name])),
        ]
    for ours, theirs in pairs:
        shapes = {key: value.shape for key, value in ours.state_dict().items() if key != "logit_scale"}
        assert shapes == {key: value.shape for key, value in theirs.state_dict().items()}


@pytest.mark.parametrize(("ours", "theirs"), [(TextEncoder, their_text), (ImageEncoder, their_image)])
def test_training_begins_with_the_same_weights(ours: type[nn.Module], theirs: type[nn.Module]) -> None:
    torch.manual_seed(0)
    built = ours(SMALL).state_dict()
    torch.manual_seed(0)
    expected = theirs(SMALL).state_dict()
    assert all(torch.equal(built[key], expected[key]) for key in expected)


@pytest.mark.parametrize("config", [SMALL, MODELS["tiny"].clip, pytest.param(SHALLOW, marks=pytest.mark.slow)])
@torch.inference_mode()
def test_towers_compute_what_open_clip_does(config: CLIPConfig) -> None:
    torch.manual_seed(0)
    theirs = their_text(config).eval()
    ours = TextEncoder(config).eval()
    ours.load_state_dict(theirs.state_dict() | {"logit_scale": ours.logit_scale})
    tokens = tokenize(["a cat", "two dogs on a beach", ""], config.text.context_length)
    x = theirs.token_embedding(tokens) + theirs.positional_embedding
    _, (penultimate,) = theirs.transformer.forward_intermediates(
        x, attn_mask=theirs.attn_mask, indices=[-2], stop_early=True
    )
    close(ours(tokens), theirs.ln_final(penultimate))
    close(ours.similarity_features(tokens), theirs(tokens))
    del ours, theirs

    looking = their_image(config).eval()
    seeing = ImageEncoder(config).eval()
    seeing.load_state_dict(looking.state_dict())
    pixels = torch.randn(2, 3, config.vision.image_size, config.vision.image_size)
    out = looking.forward_intermediates(
        pixels, indices=1, output_fmt="NLC", intermediates_only=True, output_extra_tokens=True
    )
    close(seeing(pixels), torch.cat(out["image_intermediates_prefix"] + out["image_intermediates"], dim=1))
    close(seeing.similarity_features(seeing(pixels)), looking(pixels))


def test_gradients_are_those_of_open_clip() -> None:
    torch.manual_seed(0)
    theirs, ours = their_image(SMALL), ImageEncoder(SMALL)
    ours.load_state_dict(theirs.state_dict())
    pixels = torch.randn(2, 3, 32, 32)
    theirs(pixels).square().sum().backward()
    ours.similarity_features(ours(pixels)).square().sum().backward()
    for name, parameter in theirs.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(ours.get_parameter(name).grad, parameter.grad)


# --- tokens ---

PROMPTS = [
    "a cat", "", "  A   Cat\t\n yawning ", "don't we'll they've I'm she'd it's you're", "x" * 400, "100 000,5 €",
    "&amp;amp; &lt;b&gt; &nbsp;", "schÃ¶n", "œuvre ﬁne ＡＢＣ", "<start_of_text> a <end_of_text>", "<START_OF_TEXT>",
    "<ſtart_of_text>",
    "猫があくびをする", "кошка зевает", "قطة تتثاءب", "🐱👩‍👩‍👧 ☔️", "e\u0301 \u200d \ufeff \x00 \x1b[31mred\x1b[0m",
    "it'ſ", "İstanbul ẞ",
    "\ud800 lone", "a\rb\r\nc\x0cd\x85e\u2028f", "'s's 'S", "١٢٣ Ⅷ ½",
]  # fmt: skip


@pytest.fixture(scope="module")
def theirs() -> SimpleTokenizer:
    return SimpleTokenizer()


@pytest.mark.parametrize("prompt", PROMPTS)
def test_tokens_are_those_of_open_clip(prompt: str, theirs: SimpleTokenizer) -> None:
    assert load_tokenizer().encode(prompt) == theirs.encode(prompt)
    for length in (77, 8):
        assert torch.equal(tokenize([prompt], length), theirs([prompt], length))


@pytest.mark.slow
def test_tokens_of_random_unicode_are_those_of_open_clip(theirs: SimpleTokenizer) -> None:
    rng = random.Random(0)
    ranges = [(32, 127), (32, 127), (9, 0x250), (0x370, 0x600), (0x2000, 0x2C00), (0x3000, 0xA000), (0, 0x110000)]
    bits = ["'s", "&amp;", "&#x41;", "</w>", "<end_of_text>", " ", "\n", "ing", "é", "Ã©", "’"]
    for _ in range(5000):
        low, high = rng.choice(ranges)
        letters = (
            rng.choice(bits) if rng.random() < 0.2 else chr(rng.randrange(low, high)) for _ in range(rng.randrange(40))
        )
        prompt = "".join(letters)
        assert load_tokenizer().encode(prompt) == theirs.encode(prompt), ascii(prompt)


def test_prompts_of_words_are_those_of_open_clip(theirs: SimpleTokenizer) -> None:
    rng = random.Random(1)
    words = [name.removesuffix("</w>") for name in load_tokenizer().ids if name.isascii() and name.isprintable()]
    for _ in range(2000):
        prompt = rng.choice([" ", "", "-"]).join(rng.choices(words, k=rng.randrange(12)))
        assert load_tokenizer().encode(prompt) == theirs.encode(prompt), prompt


def test_prompts_that_are_cut_are_known() -> None:
    assert not is_cut(" ".join(["cat"] * 75))
    assert is_cut(" ".join(["cat"] * 76))
    assert tokenize([""]).tolist()[0][:3] == [49406, 49407, 0]


def test_a_missing_vocabulary_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    load_tokenizer.cache_clear()
    monkeypatch.setattr(tokenizer, "find_spec", lambda name: None)
    with pytest.raises(WeightsError, match="open_clip_torch"):
        tokenize(["a cat"])
    monkeypatch.undo()
    load_tokenizer.cache_clear()
