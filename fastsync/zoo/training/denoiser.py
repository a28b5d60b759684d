"""The denoiser's stage: UNet and text encoder together."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import nn

from fastsync.zoo.models import make_scheduler, make_text_encoder, make_unet
from fastsync.zoo.training.latents import load_tokenizer, tokens
from fastsync.zoo.training.run import Run, fit

# Quantiles of the training times: shapes are decided in the less noisy half, which gets three quarters of the steps.
TIMES = (0.0, 0.775, 1.0), (0.0, 0.55, 1.0)
UNCONDITIONAL = 0.1  # share of windows with the empty caption, for classifier-free guidance


def train_denoiser(run: Run) -> Mapping[str, nn.Module]:
    """Trains v-prediction on windows cut from the wide latents; returns the averages `unet` and `text_encoder`."""
    tokenizer = load_tokenizer(run.work)
    run.seed_everything(5)
    unet = run.place(make_unet(run.size))
    if run.device.type == "cpu":
        unet.set_attn_processor(AttnProcessor())  # plain products: on CPUs 1.5 times faster a step than the fused form
    text_encoder = run.place(make_text_encoder(tokenizer, run.size))
    latents = torch.from_numpy(np.load(run.work / "latents.npy")).to(run.device)
    captions = torch.from_numpy(np.load(run.work / "captions.npy")).to(run.device)
    empty = torch.from_numpy(tokens(tokenizer, [""])[0]).to(run.device)
    signal = make_scheduler().alphas_cumprod.to(run.device)
    batch = run.batch or (32 if run.device.type == "cpu" else 256)
    cells, count, width = run.size.cells, len(latents), latents.shape[-1]

    def loss(step: int, progress: float) -> Mapping[str, torch.Tensor]:
        rng, generator = run.draws(5, step), run.noise(5, step, 1)
        rows = run.to_device(rng.integers(count, size=batch))
        columns = run.to_device(rng.integers(width - cells + 1, size=batch))[:, None] + torch.arange(
            cells, device=run.device
        )
        x0 = latents[rows].float().gather(3, columns[:, None, None, :].expand(-1, latents.shape[1], cells, -1))
        ids = captions[rows, run.to_device(rng.integers(captions.shape[1], size=batch))].long()
        dropped = run.to_device(rng.random(batch) < UNCONDITIONAL)
        ids = torch.where(dropped[:, None], empty.long(), ids)
        # Times spread evenly over a batch: the same expectation as uniform ones, less noise in the gradient.
        spread = (np.arange(batch) + rng.random(batch)) / batch
        times = run.to_device((np.interp(spread, *TIMES) * len(signal)).astype(np.int64))
        a, b = signal[times].sqrt()[:, None, None, None], (1.0 - signal[times]).sqrt()[:, None, None, None]
        eps = torch.randn(x0.shape, generator=generator, device=run.device)
        with run.autocast():
            states = text_encoder(ids)[0]
            v = unet(a * x0 + b * eps, times, encoder_hidden_states=states, return_dict=False)[0]
        error = (v.float() - (a * eps - b * x0)).square().mean()
        return {"loss": error}

    modules = {"unet": unet, "text_encoder": text_encoder}
    return fit(run, "unet", modules, loss, peak=1.2e-3, steps=12_000, decay=0.998, warmup=150)
