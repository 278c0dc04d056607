"""The autoencoder stage: a small AutoencoderKL from nothing, by pixels, edges and a little KL (arXiv 2112.10752).

No perceptual network and no discriminator: differences of neighboring pixels at three scales keep edges sharp.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcrafter.metrics.pixels import as_input, psnr, quantize_uint8
from dcrafter.models.autoencoder import AttentionBlock, AutoencoderKL, ResnetBlock
from dcrafter.tiny.clips import Draws
from dcrafter.tiny.prepared import SPLITS
from dcrafter.tiny.recipe import TinyRecipe
from dcrafter.tiny.stills import StillSampler
from dcrafter.training.stage import TrainingStage

EVALUATION_STILLS = 64  # of each kind
SHOWN = 12  # of each kind, in the preview
FIRST_LOGVAR = -6.0  # of the posterior: a little noise, so that the decoder learns at once


def edges(difference: Tensor) -> Tensor:
    """Mean absolute difference of neighbors, over three scales. (n, 3, H, W) → scalar."""
    total = difference.new_zeros(())
    for _ in range(3):
        total = total + difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()
        difference = F.avg_pool2d(difference, 2)
    return total


@torch.no_grad()
def initialize(autoencoder: AutoencoderKL) -> None:
    """Start nearly linear: residual branches at zero, all else orthogonal (arXiv 1312.6120).

    So signal and gradients pass through from the first step on.
    """
    for module in autoencoder.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.orthogonal_(module.weight)
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
    for module in autoencoder.modules():
        if isinstance(module, ResnetBlock):
            nn.init.zeros_(module.conv2.weight)
        elif isinstance(module, AttentionBlock):
            nn.init.zeros_(module.proj_out.weight)
    channels = autoencoder.config.latent_channels
    autoencoder.quant_conv.weight[channels:] = 0.0
    autoencoder.quant_conv.bias[channels:] = FIRST_LOGVAR  # type: ignore[index]


class AutoencoderStage(TrainingStage):
    """Trains the autoencoder, or its decoder alone. Latents are not scaled here; `latent_std` in the log is 1/scale."""

    def __init__(self, recipe: TinyRecipe, data: Path, *, plan_only: bool = False) -> None:
        """With `plan_only` no data is looked at."""
        super().__init__()
        config = recipe.model_config
        torch.manual_seed(recipe.seed)
        self.config = config
        self.autoencoder = AutoencoderKL(config.autoencoder)
        initialize(self.autoencoder)
        self.model = nn.ModuleDict({"autoencoder": self.autoencoder})
        self.weights = recipe.loss
        if not recipe.loss.encoder:
            self.needed = ("autoencoder",)
            for module in (self.autoencoder.encoder, self.autoencoder.quant_conv):
                module.requires_grad_(False)
        if plan_only:
            return
        train, held_out = (StillSampler(data, split, size=config.height) for split in SPLITS)
        items = recipe.train.steps * recipe.train.batch * recipe.train.accumulate
        self.dataset = Draws(train.still, recipe.seed, items)
        self.held_out = {
            "emoji": as_input(held_out.evaluation_stills("emoji", EVALUATION_STILLS)),
            "photographs": as_input(held_out.evaluation_stills("photographs", EVALUATION_STILLS)),
        }

    def forward(self, batch: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """A batch of stills (n, H, W, 3) uint8."""
        true = as_input(batch.to(self._device))
        mean, logvar = (moment.float() for moment in self.autoencoder.posterior(true))
        noise = torch.randn(mean.shape, generator=generator).to(mean)
        latents = (mean + torch.exp(0.5 * logvar) * noise) * self.autoencoder.config.scale
        difference = self.autoencoder.decode(latents).float() - true
        terms = {
            "absolute": difference.abs().mean(),
            "squared": (difference**2).mean(),
            "edges": edges(difference),
            "kl": 0.5 * (mean**2 + logvar.exp() - 1 - logvar).mean(),
        }
        loss = terms["absolute"] + sum(getattr(self.weights, name) * terms[name] for name in ("squared", "edges", "kl"))
        return {"loss": loss, **terms}

    def evaluate(self) -> dict[str, float]:
        values = {}
        for kind, true in self.held_out.items():
            mean, made = self._reconstruct(true)
            values[f"psnr_{kind}"] = psnr(made, true)
            values[f"latent_std_{kind}"] = float(mean.std())
        return values

    def preview(self) -> Tensor:
        """Held-out stills, each above its reconstruction."""
        rows = []
        for true in self.held_out.values():
            shown = true[:SHOWN].to(self._device)
            rows += [torch.cat([*shown], dim=-1), torch.cat([*self._reconstruct(shown)[1]], dim=-1)]
        grid = torch.cat(rows, dim=-2).clamp(-1, 1)
        return quantize_uint8(grid).permute(1, 2, 0).cpu().contiguous()

    @property
    def _device(self) -> Any:
        return self.autoencoder.quant_conv.weight.device

    def _reconstruct(self, true: Tensor) -> tuple[Tensor, Tensor]:
        """Latent means, and reconstructions without posterior noise, on the CPU."""
        parts = []
        for some in torch.split(true, 16):
            mean, _ = self.autoencoder.posterior(some.to(self._device))
            made = self.autoencoder.decode(mean.float() * self.autoencoder.config.scale)
            parts.append((mean.float().cpu(), made.float().cpu()))
        means, made_all = zip(*parts, strict=True)
        return torch.cat(means), torch.cat(made_all)
