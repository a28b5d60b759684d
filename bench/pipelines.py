"""Whole diffusers pipelines of public models' size, with random weights: a wide picture beside the pipeline's own call.

    python -m bench.pipelines [--device cuda] [--only NAME] [--steps 8] [--minutes 4] [--output FILE]

There are no text encoders: pictures are asked for by embeddings. What is timed ends with the last step, since decoding
is the same work for all. A view-evaluation is one row of the network, guidance's two halves counted as two; SyncVC's
have a backward pass each but the last of a step. ``share`` is the speed of MultiDiffusion in rows a second relative to
the pipeline's own call, which makes one picture at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import diffusers
import torch
import typer
from torch import Tensor, nn

import fastsync as fs
from bench.machine import RESULTS, describe, write_json
from bench.models import FLUX, SD3, SDXL, born

VIEWS = 3  # windows of a picture, each of which shares a quarter with the next
METHODS: dict[str, Callable[[], fs.Method]] = {
    "MultiDiffusion": fs.MultiDiffusion,
    "SyncVC": lambda: fs.SyncVC(iterations=3),
}

# The published configurations, as far as they differ from the defaults of diffusers' classes.
_KL = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "sample_size": 1024,
}
_KL16 = {**_KL, "latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False}
_DC_BLOCKS = ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3
_DC_CHANNELS = (128, 256, 512, 512, 1024, 1024)
_DC_SCALES = ((),) * 3 + ((5,),) * 3
_DC = {
    "attention_head_dim": 32,
    "encoder_block_types": _DC_BLOCKS,
    "decoder_block_types": _DC_BLOCKS,
    "encoder_block_out_channels": _DC_CHANNELS,
    "decoder_block_out_channels": _DC_CHANNELS,
    "encoder_layers_per_block": (2, 2, 2, 3, 3, 3),
    "decoder_layers_per_block": (3,) * 6,
    "encoder_qkv_multiscales": _DC_SCALES,
    "decoder_qkv_multiscales": _DC_SCALES,
    "upsample_block_type": "interpolate",
    "downsample_block_type": "Conv",
    "scaling_factor": 0.41407,
}


@dataclass(frozen=True)
class Model:
    """A pipeline without its text encoders.

    Attributes:
        pipeline: its class.
        network: the denoiser's name among its components, class and config.
        vae: the autoencoder's class and config.
        scheduler: makes it.
        embeds: shape of each embedding that the call takes, of one picture; bool ones are masks of ones.
        window: side of a picture in pixels.
        rows: of the network in each of the pipeline's own steps.
        parts: further components.
        call: further arguments of the call.
    """

    pipeline: Any
    network: tuple[str, Any, Mapping[str, Any]]
    vae: tuple[Any, Mapping[str, Any]]
    scheduler: Callable[[], Any]
    embeds: Mapping[str, tuple[int, ...]]
    window: int = 1024
    rows: int = 2
    parts: Mapping[str, Any] = field(default_factory=dict)
    call: Mapping[str, Any] = field(default_factory=dict)


def _halves(**shapes: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Embeddings for both halves of guidance."""
    return {**shapes, **{f"negative_{name}": shape for name, shape in shapes.items()}}


def _texts(*numbers: str) -> dict[str, None]:
    """No tokenizers and no text encoders."""
    return {f"{part}{number}": None for part in ("tokenizer", "text_encoder") for number in ("", *numbers)}


def _euler() -> Any:
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    return diffusers.EulerDiscreteScheduler(**betas, steps_offset=1, timestep_spacing="leading")


def _flow(**settings: Any) -> Callable[[], Any]:
    return lambda: diffusers.FlowMatchEulerDiscreteScheduler(**settings)


MODELS = {
    "SDXL": Model(
        diffusers.StableDiffusionXLPipeline,
        ("unet", diffusers.UNet2DConditionModel, SDXL),
        (diffusers.AutoencoderKL, {**_KL, "scaling_factor": 0.13025}),
        _euler,
        _halves(prompt_embeds=(77, 2048), pooled_prompt_embeds=(1280,)),
        parts=_texts("_2"),
    ),
    "SD3 medium": Model(
        diffusers.StableDiffusion3Pipeline,
        ("transformer", diffusers.SD3Transformer2DModel, SD3),
        (diffusers.AutoencoderKL, {**_KL16, "scaling_factor": 1.5305, "shift_factor": 0.0609}),
        _flow(shift=3.0),
        _halves(prompt_embeds=(333, 4096), pooled_prompt_embeds=(2048,)),
        parts=_texts("_2", "_3"),
    ),
    "FLUX.1": Model(
        diffusers.FluxPipeline,
        ("transformer", diffusers.FluxTransformer2DModel, FLUX),
        (diffusers.AutoencoderKL, {**_KL16, "scaling_factor": 0.3611, "shift_factor": 0.1159}),
        _flow(shift=3.0, use_dynamic_shifting=True),
        {"prompt_embeds": (512, 4096), "pooled_prompt_embeds": (768,)},
        rows=1,
        parts=_texts("_2"),
    ),
    "SANA 1.6B": Model(
        diffusers.SanaPipeline,
        ("transformer", diffusers.SanaTransformer2DModel, {}),
        (diffusers.AutoencoderDC, _DC),
        _flow(shift=3.0),
        _halves(prompt_embeds=(300, 2304), prompt_attention_mask=(300,)),
        parts=_texts(),
        call={"use_resolution_binning": False},
    ),
}


def make(model: Model, device: torch.device, dtype: torch.dtype) -> Any:
    """The pipeline, its weights made on the device in their precision."""
    torch.manual_seed(0)
    name, kind, config = model.network
    parts: dict[str, nn.Module] = {}
    with born(device, dtype):
        parts[name] = kind(**config)
        parts["vae"] = model.vae[0](**model.vae[1])
    for part in parts.values():
        part.to(dtype).eval()  # tables are made in float32
    pipe = model.pipeline(**parts, **model.parts, scheduler=model.scheduler())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def embeddings(model: Model, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """Random embeddings of one picture, and masks of ones."""
    generator = torch.Generator().manual_seed(0)
    found = {}
    for name, shape in model.embeds.items():
        ones = name.endswith("mask")
        value = torch.ones(1, *shape, dtype=torch.long) if ones else torch.randn(1, *shape, generator=generator)
        found[name] = value.to(device) if ones else value.to(device, dtype)
    return found


def measure(model: Model, device: torch.device, dtype: torch.dtype, steps: int) -> dict[str, Any]:
    """Seconds, rows a second and peak memory of the pipeline's own call, of probing, and of both methods."""
    pipe = make(model, device, dtype)
    given = embeddings(model, device, dtype)
    size = {"height": model.window, "width": model.window}
    networks = [getattr(pipe, model.network[0])]
    weights = sum(p.numel() for p in networks[0].parameters())
    found: dict[str, Any] = {"parameters": weights, "window": model.window, "dtype": str(dtype).removeprefix("torch.")}

    def own() -> None:
        settings = {"negative_prompt": None, "num_inference_steps": steps, "output_type": "latent"}
        pipe(**given, **model.call, **size, **settings, generator=torch.Generator().manual_seed(0))

    own()  # kernels are chosen
    found["own"] = _timed(own, device, model.rows * steps)
    asked: list[int] = []
    handle = networks[0].register_forward_pre_hook(lambda *_: asked.append(1))
    found["probe"] = _timed(lambda: _probe(pipe, model, given, steps), device, 0) | {"calls": len(asked)}
    handle.remove()
    sync = fs.SyncPipeline(pipe)
    for name, method in METHODS.items():
        if name == "SyncVC" and device.type == "cuda":
            networks[0].enable_gradient_checkpointing()
        wide = _Wide(sync, model, {**given, **model.call}, method, steps)
        row = _timed(wide, device, 0)
        assert wide.stats is not None
        row |= {"rows": wide.stats.evaluations, "gradients": wide.stats.gradients, "calls": wide.stats.calls}
        row["sampling_seconds"] = wide.stats.seconds
        row["rows_per_second"] = wide.stats.evaluations / wide.stats.seconds
        found[name] = row
    found["share"] = found["MultiDiffusion"]["rows_per_second"] / found["own"]["rows_per_second"]
    return found


@dataclass
class _Wide:
    """A wide picture of ``VIEWS`` windows by a method, as users make it, and what it spent."""

    sync: fs.SyncPipeline
    model: Model
    given: Mapping[str, Any]
    method: Callable[[], fs.Method]
    steps: int
    stats: Any = None

    def __call__(self) -> None:
        side = self.model.window
        out = self.sync.wide(
            None, height=side, width=side + (VIEWS - 1) * (side - side // 4), overlap=side // 4, window=(side, side),
            pipe_kwargs=self.given, method=self.method(), num_inference_steps=self.steps, seed=0, max_batch="auto",
            output_type="latent", progress=False,
        )  # fmt: skip
        self.stats = out.stats


def _probe(pipe: Any, model: Model, given: Mapping[str, Tensor], steps: int) -> None:
    """All that is learnt before a run."""
    prior = fs.priors.wrap(pipe, window=(model.window, model.window), pipe_kwargs={**given, **model.call})
    prior.told(fs.priors.ViewRequest(VIEWS, None))
    prior.steps(steps)


def _timed(run: Callable[[], Any], device: torch.device, rows: int) -> dict[str, Any]:
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    run()
    if cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    row: dict[str, Any] = {"seconds": seconds}
    if rows:
        row |= {"rows": rows, "rows_per_second": rows / seconds}
    return row | {"peak_memory": torch.cuda.max_memory_allocated() if cuda else None}


def main(
    device: Annotated[str, typer.Option(help="Where; models of this size want a GPU.")] = "cuda",
    only: Annotated[str, typer.Option(help="Only models whose names hold this.")] = "",
    steps: Annotated[int, typer.Option(help="Steps of each picture.")] = 8,
    minutes: Annotated[float, typer.Option(help="No model is begun after this time.")] = 4.0,
    output: Annotated[Path, typer.Option(help="Where the result goes.")] = RESULTS / "pipelines_cuda.json",
) -> None:
    """Measures the models one by one; each that is done is written at once."""
    began, models = time.perf_counter(), {}
    for name, model in MODELS.items():
        if only not in name or time.perf_counter() - began > 60 * minutes:
            continue
        dtype = torch.float16 if name == "SDXL" else torch.bfloat16
        models[name] = measure(model, torch.device(device), dtype, steps)
        write_json(output, {**describe(), "settings": {"views": VIEWS, "steps": steps}, "models": models})
        typer.echo(f"{name}: {models[name]}")
        if device == "cuda":
            torch.cuda.empty_cache()
    typer.echo(f"written to {output}" if models else "nothing was measured")
    raise SystemExit(not models)


if __name__ == "__main__":
    typer.run(main)
