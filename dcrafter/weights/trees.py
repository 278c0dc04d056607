"""Configuration files of the published code: YAML or JSON, read with bounds on size, nesting and repetition; and what
model they describe."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from dcrafter.config import (
    MODELS,
    AutoencoderConfig,
    CLIPConfig,
    Command,
    ModelConfig,
    QueryTransformerConfig,
    ReferenceConfig,
    ScheduleConfig,
    TextConfig,
    UNetConfig,
    VisionConfig,
)
from dcrafter.errors import WeightsError
from dcrafter.limits import check_ranges
from dcrafter.weights.families import closest

MAX_SIZE = 256_000  # bytes; the published files have 3,000
MAX_DEPTH = 64
MAX_ALIASES = 100
MAX_MERGED = 10_000  # entries of a table, with those that merge keys bring


class _Loader(yaml.SafeLoader):
    """Aliases and merge keys multiply a few hundred bytes into gigabytes; nesting exhausts Python's stack."""

    depth = aliases = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.aliases += self.check_event(yaml.AliasEvent)
        self.depth += 1
        if self.depth > MAX_DEPTH or self.aliases > MAX_ALIASES:
            raise ValueError("it is nested too deeply, or repeats too much")
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        if len(node.value) > MAX_MERGED:
            raise ValueError("its merge keys make it too large")


def read_tree(path: Path) -> Mapping[str, Any]:
    """A model configuration as nested tables. Raises WeightsError where it is none, or is beyond the bounds."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_SIZE + 1)
        if len(content) > MAX_SIZE:
            raise ValueError(f"it has more than {MAX_SIZE // 1000} kB")
        text = content.decode()
        # Not all JSON is YAML to PyYAML: tabs are not.
        tree = json.loads(text) if text.lstrip().startswith("{") else yaml.load(text, _Loader)
    except (OSError, ValueError, TypeError, RecursionError, OverflowError, yaml.YAMLError) as error:
        said = str(error).strip().split("\n")[0][:200]
        raise WeightsError(f"cannot read the model configuration {path} ({said})") from error
    if not isinstance(tree, Mapping):
        raise WeightsError(f"the model configuration {path} is no YAML or JSON tree")
    return tree


def config_from_tree(tree: Mapping[str, Any], model: str | None = None, command: Command = "animate") -> ModelConfig:
    """A published configuration tree → ours.

    What a tree does not say (spacing, guidance rescale, motion range) follows the registry's `model`, by default
    the one of the same prediction type and rescale that does the command. Under `clip` a tree may give the OpenCLIP
    architecture in open_clip's terms; without it ViT-H-14 is meant. Raises WeightsError for a tree that is not one,
    or asks for what DynamiCrafter's published models do not have.
    """
    try:
        params = tree["model"]["params"]
        unet = params["unet_config"]["params"]
        first_stage = params["first_stage_config"]
        vae = first_stage["params"]["ddconfig"]
        query = params["image_proj_stage_config"]["params"]
        has_references = str(first_stage.get("target")).endswith("AutoencoderKL_Dualref")
        _check_supported(unet, vae, params)
        schedule = _schedule(params)
        base = MODELS[
            model or closest(schedule.prediction, schedule.rescale_base, command, has_references=has_references)
        ]
        _check_alike(base, schedule, has_references)
        autoencoder = _autoencoder(vae, params, has_references)
        check_ranges(autoencoder)  # before anything is multiplied
        size = params["image_size"]
        height, width = (size, size) if isinstance(size, int) else size
        named = model or has_references  # then its motion is the registry's
        motion = base.motion if named else replace(base.motion, default=unet.get("default_fs", base.motion.default))
        made = replace(
            base,
            height=height * autoencoder.downsampling,
            width=width * autoencoder.downsampling,
            frames=query["video_length"],
            motion=motion,
            unet=_unet(unet),
            autoencoder=autoencoder,
            clip=_clip(tree),
            projector=_projector(query),
            schedule=replace(schedule, spacing=base.schedule.spacing),
        )
        return ModelConfig.from_dict(made.to_dict())  # which looks at the kind of every value
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise WeightsError(
            f"the model configuration is not a DynamiCrafter one ({type(error).__name__}: {str(error)[:200]})",
            "Give the inference YAML of the published code, or one of its shape",
        ) from error


def _check_alike(base: ModelConfig, schedule: ScheduleConfig, has_references: bool) -> None:
    """Raises WeightsError where a tree differs from the model whose name was given in what no tree may change."""
    differing = []
    if base.schedule.prediction != schedule.prediction:
        differing.append(f"predicts {schedule.prediction}")
    if (base.autoencoder.references is not None) != has_references:
        differing.append(f"decodes {'beside' if has_references else 'without'} references")
    if differing:
        raise WeightsError(
            f"the model configuration {differing[0]}, and the {base.name} model does not",
            f"Leave out the name {base.name}, or change it",
        )


def _check_supported(unet: Mapping[str, Any], vae: Mapping[str, Any], params: Mapping[str, Any]) -> None:
    needed = ["temporal_conv", "addition_attention", "image_cross_attention", "fs_condition", "use_linear"]
    usual = ["temporal_attention", "temporal_selfatt_only"]
    lacking = [name for name in needed if not unet.get(name)] + [name for name in usual if not unet.get(name, True)]
    unwanted = ["use_relative_position", "use_causal_attention", "use_scale_shift_norm", "resblock_updown"]
    lacking += [f"no {name}" for name in unwanted if unet.get(name)]
    if vae.get("attn_resolutions"):
        lacking.append("no attn_resolutions in the autoencoder")
    if params.get("parameterization", "eps") not in ("eps", "v"):
        lacking.append("parameterization eps or v")
    if params.get("parameterization", "eps") == "eps" and params.get("rescale_betas_zero_snr"):
        lacking.append("parameterization v with rescale_betas_zero_snr")
    if params.get("beta_schedule", "linear") != "linear":
        lacking.append("beta_schedule linear")
    if not vae.get("double_z", True):
        lacking.append("double_z in the autoencoder")
    text = params.get("cond_stage_config", {}).get("params", {})
    if text.get("layer", "penultimate") != "penultimate":
        lacking.append("layer penultimate of the text encoder")
    if lacking:
        raise WeightsError(
            f"the model configuration is of another architecture (expected: {', '.join(lacking)})",
            "Only models that share the published DynamiCrafter architecture can be loaded",
        )


def _clip(tree: Mapping[str, Any]) -> CLIPConfig:
    """ViT-H-14 where the tree says nothing; what its `clip` leaves out is open_clip's default, not ViT-H-14's."""
    if "clip" not in tree:
        return CLIPConfig()
    clip = tree["clip"]
    vision = {"layers": 12, "width": 768, "head_width": 64, "patch_size": 16} | clip["vision_cfg"]
    text = {"width": 512, "heads": 8, "layers": 12} | clip["text_cfg"]
    return CLIPConfig(embed_dim=clip["embed_dim"], vision=VisionConfig(**vision), text=TextConfig(**text))


def _unet(params: Mapping[str, Any]) -> UNetConfig:
    return UNetConfig(
        in_channels=params["in_channels"],
        out_channels=params["out_channels"],
        model_channels=params["model_channels"],
        channel_mult=tuple(params["channel_mult"]),
        num_res_blocks=params["num_res_blocks"],
        attention_resolutions=tuple(sorted(params["attention_resolutions"])),
        head_channels=params["num_head_channels"],
        transformer_depth=params.get("transformer_depth", 1),
        context_dim=params["context_dim"],
        learnable_image_scale=params.get("image_cross_attention_scale_learnable", False),
    )


def _autoencoder(vae: Mapping[str, Any], params: Mapping[str, Any], has_references: bool) -> AutoencoderConfig:
    return AutoencoderConfig(
        latent_channels=vae["z_channels"],
        channels=vae["ch"],
        channel_mult=tuple(vae["ch_mult"]),
        num_res_blocks=vae["num_res_blocks"],
        decoder_channels=vae["ch"],
        decoder_res_blocks=vae["num_res_blocks"] + 1,
        scale=float(params.get("scale_factor", 0.18215)),
        references=ReferenceConfig() if has_references else None,
    )


def _projector(query: Mapping[str, Any]) -> QueryTransformerConfig:
    return QueryTransformerConfig(
        embedding_dim=query["embedding_dim"],
        dim=query["dim"],
        depth=query["depth"],
        heads=query["heads"],
        head_channels=query["dim_head"],
        ff_mult=query.get("ff_mult", 4),
        queries_per_frame=query["num_queries"],
        frames=query["video_length"],
        output_dim=query["output_dim"],
    )


def _schedule(params: Mapping[str, Any]) -> ScheduleConfig:
    """All but the spacing, of which a tree says nothing."""
    return ScheduleConfig(
        num_timesteps=params.get("timesteps", 1000),
        beta_start=float(params["linear_start"]),
        beta_end=float(params["linear_end"]),
        prediction=params.get("parameterization", "eps"),
        zero_terminal_snr=params.get("rescale_betas_zero_snr", False),
        rescale_base=float(params.get("base_scale", 0.7)) if params.get("use_dynamic_rescale") else 1.0,
        rescale_steps=params.get("turning_step", 400),
    )
