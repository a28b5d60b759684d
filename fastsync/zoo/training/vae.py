"""The autoencoder's stage."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from diffusers import AutoencoderKL
from torch.nn.functional import avg_pool2d, l1_loss

from fastsync.zoo.models import make_vae
from fastsync.zoo.training.data import Pictures
from fastsync.zoo.training.run import Run, fit

KL_WEIGHT = 1e-4
EDGE_WEIGHT = 1.0
LATENT_NOISE = 0.04  # of the latents' standard deviation: what a denoiser leaves behind must not show


def edge_loss(a: torch.Tensor, b: torch.Tensor, scales: int = 3) -> torch.Tensor:
    """Mean |difference| of finite differences at several scales, scalar: what keeps edges crisp."""
    total = a.new_zeros(())
    d = a - b
    for scale in range(scales):
        if scale:
            d = avg_pool2d(d, 2)
        total = total + (d[..., 1:] - d[..., :-1]).abs().mean() + (d[..., 1:, :] - d[..., :-1, :]).abs().mean()
    return total / scales


def reconstruction_loss(y: torch.Tensor, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Named scalar losses of pictures `y` that should be `x`, both float [B, 3, H, W] in [-1, 1]."""
    l1, edges = l1_loss(y, x), edge_loss(y, x)
    total = l1 + 0.5 * (y - x).square().mean() + EDGE_WEIGHT * edges
    return {"loss": total, "l1": l1.detach(), "edges": edges.detach()}


def draw_latents(
    run: Run, vae: AutoencoderKL, x: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents of pictures x, drawn and with a denoiser's remains added, and their divergence from normal noise."""
    with run.autocast():
        posterior = vae.encode(x).latent_dist
    mean, std, logvar = posterior.mean.float(), posterior.std.float(), posterior.logvar.float()
    z = mean + std * torch.randn(mean.shape, generator=generator, device=run.device)
    z = z + LATENT_NOISE * mean.detach().std() * torch.randn(mean.shape, generator=generator, device=run.device)
    return z, 0.5 * (mean**2 + std**2 - 1.0 - logvar).mean()


def train_vae(run: Run) -> AutoencoderKL:
    """Trains the autoencoder on crops of changing shapes: small ones early, windows and wider ones later.

    The normalisation layers see whole crops, users decode whole wide pictures, and the denoiser learns windows cut
    from wide latents: so later batches are wide, and half of them decode a window from the middle of wide latents.
    """
    pictures = Pictures(run)
    run.seed_everything(2)
    vae = run.place(make_vae(run.size))
    pixels, cells, factor = run.size.pixels, run.size.cells, run.size.factor
    batch = run.batch or (16 if run.device.type == "cpu" else 64)

    def loss(step: int, progress: float) -> Mapping[str, torch.Tensor]:
        rng, generator = run.draws(2, step), run.noise(2, step, 1)
        kind = rng.random()
        height, width, count, cut = pixels // 2, pixels // 2, max(batch // 2, 1), False
        if progress > 0.55:
            cut = bool(kind < 0.5)
            height, width, count = pixels, 2 * pixels, max(batch // (5 if cut else 8), 1)
        elif kind < 0.15:
            height, width, count = pixels, pixels, max(batch // 8, 1)
        x = pictures.crops(rng.integers(len(pictures.scenes), size=count), height, width, rng) * 2.0 - 1.0
        z, kl = draw_latents(run, vae, x, generator)
        if cut:
            left = int(rng.integers(cells + 1))
            z, x = z[..., left : left + cells], x[..., left * factor : left * factor + pixels]
        with run.autocast():
            y = vae.decode(z).sample
        losses = reconstruction_loss(y.float(), x)
        return {**losses, "loss": losses["loss"] + KL_WEIGHT * kl, "kl": kl.detach()}

    average = fit(run, "vae", {"vae": vae}, loss, peak=2e-3, steps=12_000, decay=0.995, warmup=100)
    trained: AutoencoderKL = average["vae"]
    return trained


def polish_decoder(run: Run) -> AutoencoderKL:
    """Goes on with the decoder alone, while the latents stay what the denoiser knows; needs the latents stage.

    The checkpoint `decoder.pt` holds the averages that the export takes.
    """
    pictures = Pictures(run)
    vae = run.place(make_vae(run.size))
    vae.load_state_dict(torch.load(run.work / "latents.pt", map_location=run.device, weights_only=True))
    vae.requires_grad_(False)
    modules = {"post_quant_conv": vae.post_quant_conv.requires_grad_(True), "decoder": vae.decoder.requires_grad_(True)}
    pixels, cells, factor = run.size.pixels, run.size.cells, run.size.factor
    batch = run.batch or (4 if run.device.type == "cpu" else 32)

    def loss(step: int, progress: float) -> Mapping[str, torch.Tensor]:
        rng, generator = run.draws(6, step), run.noise(6, step, 1)
        cut = bool(rng.random() < 0.6)
        rows = rng.integers(len(pictures.scenes), size=batch if cut else max(batch // 2, 1))
        x = pictures.crops(rows, pixels, 2 * pixels, rng) * 2.0 - 1.0
        with torch.no_grad(), run.autocast():
            z = vae.encode(x).latent_dist.mean.float()
        z = z + LATENT_NOISE * torch.randn(z.shape, generator=generator, device=run.device)
        if cut:
            left = int(rng.integers(cells + 1))
            z, x = z[..., left : left + cells], x[..., left * factor : left * factor + pixels]
        with run.autocast():
            y = vae.decode(z).sample
        return reconstruction_loss(y.float(), x)

    average = fit(run, "decoder", modules, loss, peak=1e-3, steps=4000, decay=0.995, warmup=50)
    for name, module in average.items():
        getattr(vae, name).load_state_dict(module.state_dict())
    trained: AutoencoderKL = vae
    return trained


@torch.no_grad()
def normalise_latents(vae: AutoencoderKL, mean: torch.Tensor, std: torch.Tensor) -> None:
    """Changes the 1x1 layers around the latents so that these have mean 0 and standard deviation 1, channel by channel.

    `mean` and `std` are those of the latents so far, float [latent_channels]. Pictures decode as before.
    """
    channels = len(mean)
    enter, leave = vae.quant_conv, vae.post_quant_conv
    enter.bias[:channels] -= mean
    enter.weight[:channels] /= std[:, None, None, None]
    enter.bias[:channels] /= std
    enter.bias[channels:] -= 2.0 * std.log()  # the second half is the logarithm of the variance
    leave.bias += leave.weight[:, :, 0, 0] @ mean
    leave.weight *= std[None, :, None, None]
