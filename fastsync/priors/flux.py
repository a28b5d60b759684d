"""FLUX.1: a transformer that predicts flows of latents packed two by two, told a pooled text and a guidance value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..conditions import Conditions
from ..diffusion import NoiseSchedule, SolverChoice, StepTable
from ..errors import check_int, check_number, check_pair
from ..guidance import Guidance
from .base import PipelinePrior, strings
from .codecs import VaeCodec
from .registry import built_in
from .runtime import Runtime


@built_in("FluxPipeline")
class FluxPrior(PipelinePrior):
    """The prior inside a diffusers ``FluxPipeline`` (dev, schnell and fine-tunes), on its device, in its dtype.

    Views are latents [16, h, w]; the network gets them packed. Conditions are ``text`` [N, L, D], ``pooled`` [N, P]
    and, for models distilled with guidance, ``guidance`` [N], the value that the network is told; ``text_ids`` [L, 3]
    and ``image_ids`` [h w / 4, 3] are shared. True guidance, by ``uncond``, works beside it.

    Args:
        pipe, runtime, solver: a ``FluxPipeline``, and as in :class:`fastsync.DiffusersPrior`.
        window: view size (h, w) in latent cells, even; the pipeline's own if None.
        embedded_guidance: ``guidance`` in what ``encode_prompt`` gives.

    Raises:
        ValueError: for a pipeline of another class, odd windows, or a network that caches over steps.
    """

    window_multiple, default_guidance = 2, 3.5

    def __init__(
        self,
        pipe: Any,
        *,
        window: tuple[int, int] | None = None,
        runtime: Runtime | None = None,
        solver: SolverChoice = "auto",
        embedded_guidance: float = 3.5,
    ) -> None:
        vae: Any = getattr(pipe, "vae", None)
        net: Any = getattr(pipe, "transformer", None)
        net = getattr(net, "_orig_mod", net)  # the model itself where it is compiled
        channels = None if vae is None else 4 * vae.config.latent_channels
        if type(net).__name__ != "FluxTransformer2DModel" or net.config.in_channels != channels:
            raise ValueError(
                f"{type(pipe).__name__} is not a FLUX text-to-image pipeline (FluxTransformer2DModel over the VAE's "
                "latents alone): pass a FluxPipeline, or register an adapter of your own (fastsync.priors.register)."
            )
        if net.is_cache_enabled:
            raise ValueError("the transformer caches from step to step: call pipe.transformer.disable_cache() first.")
        self.pipe, self.runtime = pipe, Runtime.of(pipe) if runtime is None else runtime
        self.schedule, self.codec = NoiseSchedule(pipe.scheduler, solver), VaeCodec(vae)
        self.embedded_guidance = check_number("embedded_guidance", embedded_guidance)
        self.window = check_pair("window", (pipe.default_sample_size,) * 2 if window is None else window)
        if any(side % 2 for side in self.window):
            raise ValueError(f"window must be even both ways, as FLUX packs cells two by two, got {self.window}.")
        names = ("text", "pooled", "text_ids", "image_ids")
        self.needed_conditions = self.known_conditions = names + ("guidance",) * bool(net.config.guidance_embeds)

    @property
    def view_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of a view in latent cells."""
        return (self.pipe.vae.config.latent_channels, *self.window)

    def network(self, x: torch.Tensor, t: torch.Tensor, cond: Conditions | None) -> torch.Tensor:
        """The transformer at noisy views x [B, C, h, w] and times t [B]."""
        told, dtype, (n, c, h, w) = self.checked(cond), self.dtype, x.shape
        # A token is a square of two by two cells, channels first.
        tokens = x.reshape(n, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(n, h * w // 4, 4 * c)
        times = {"timestep": t.to(dtype) / 1000, "guidance": told.get("guidance")}
        ids = {"txt_ids": told["text_ids"], "img_ids": told["image_ids"]}
        texts = {"encoder_hidden_states": told["text"].to(dtype), "pooled_projections": told["pooled"].to(dtype)}
        raw: torch.Tensor = self.pipe.transformer(tokens.to(dtype), return_dict=False, **texts, **times, **ids)[0]
        return raw.reshape(n, h // 2, w // 2, c, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(x.shape)

    def steps(self, num_inference_steps: int, eta: float = 0.0) -> StepTable:
        """The run's step table at the pipeline's own times, whose shift depends on the number of tokens."""
        count = check_int("num_inference_steps", num_inference_steps)
        config, tokens = self.pipe.scheduler.config, self.window[0] * self.window[1] / 4
        few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
        low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
        mu = low + (high - low) * (tokens - few) / (many - few)
        even = torch.linspace(1, 1 / count, count, dtype=torch.float64)
        return self.schedule.steps(count, eta, mu=mu, sigmas=None if config.get("use_flow_sigmas") else even)

    def encode_prompt(
        self, prompt: str | Sequence[str], negative_prompt: str | Sequence[str] | None = None
    ) -> tuple[Conditions, Conditions | None]:
        """Conditions ``(cond, uncond)`` of n prompts; no uncond without a negative prompt, as in the pipeline."""
        prompts, negatives = strings(prompt, negative_prompt)
        places = (torch.arange(side / 2) for side in self.window)  # floats, as the ids are
        image_ids = torch.cartesian_prod(torch.zeros(1), *places).to(self.device)

        def told(texts: list[str]) -> Conditions:
            with torch.no_grad():
                text, pooled, text_ids = self.pipe.encode_prompt(texts, device=self.device)
            rows = {"text": text, "pooled": pooled, "guidance": text.new_full((1,), self.embedded_guidance)}
            rows = {name: value for name, value in rows.items() if name in self.known_conditions}
            return Conditions(rows, {"text_ids": text_ids, "image_ids": image_ids})

        return told(prompts), None if negatives is None else told(negatives)

    def guided(self, cond: Conditions, uncond: Any, guidance: Guidance) -> tuple[Conditions, None, Guidance]:
        """``guidance_scale`` is a value that the network is told; no unconditional half is beside it."""
        if uncond is not None or guidance != Guidance(guidance.scale):
            raise ValueError(
                f"the network of {type(self.pipe).__name__} is told its guidance_scale, so a negative prompt, rescale "
                "and interval have no effect: leave them out, or guide by uncond in fastsync.sample."
            )
        told = {"guidance": torch.full_like(cond["guidance"], guidance.scale)} if "guidance" in cond else {}
        return cond.updated(**told), None, guidance
