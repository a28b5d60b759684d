"""The stages of the prior `scenes-depth`: painted objects, latents, UNet with text encoder and ControlNet, export."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm
from transformers import CLIPTextModel

from fastsync import zoo
from fastsync.files import replacing
from fastsync.zoo import objects
from fastsync.zoo.models import (
    Size,
    make_controlnet,
    make_pipeline,
    make_scheduler,
    make_text_encoder,
    make_tokenizer,
    make_unet,
    make_vae,
)
from fastsync.zoo.training.adopt import write_checkpoint
from fastsync.zoo.training.denoiser import TIMES, UNCONDITIONAL
from fastsync.zoo.training.export import WEIGHTS, read_checkpoint, replace_folder
from fastsync.zoo.training.latents import load_tokenizer, stray, tokens
from fastsync.zoo.training.run import Run, fit
from fastsync.zoo.training.vae import KL_WEIGHT, draw_latents, normalise_latents, reconstruction_loss


def paint(run: Run, count: int = 9_000, workers: int = 2) -> None:
    """Writes `pictures.npy` (uint8 [count, pixels, pixels, 3]), `depths.npy` (uint8 [count, pixels, pixels]) and
    `things.json`; nothing to do where all are."""
    if run.resume and (run.work / "things.json").is_file():
        return
    rng, pixels = run.draws(1), run.size.pixels
    drawn = [objects.sample_thing(rng) for _ in range(count)]
    pictures = np.empty((count, pixels, pixels, 3), np.uint8)
    depths = np.empty((count, pixels, pixels), np.uint8)
    with (
        multiprocessing.get_context("spawn").Pool(workers, torch.set_num_threads, (1,)) as pool,
        tqdm(total=count, desc="data", unit="picture", disable=not run.progress, mininterval=5) as bar,
    ):
        work = ((thing, pixels) for thing in drawn)
        for k, (picture, depth) in enumerate(pool.imap(_render, work, chunksize=16)):
            pictures[k], depths[k] = picture, depth
            bar.update()
    for name, array in (("pictures", pictures), ("depths", depths)):
        with replacing(run.work / f"{name}.npy") as path, path.open("wb") as file:
            np.save(file, array)
    with replacing(run.work / "things.json") as path:
        path.write_text(json.dumps([asdict(thing) for thing in drawn]))


def _render(what: tuple[objects.Thing, int]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    return objects.render(*what)


class Pictures:
    """The painted pictures of a run, with their depths; the second half of the rows are mirror images of the first."""

    def __init__(self, run: Run) -> None:
        self.things = [objects.Thing(**fields) for fields in json.loads((run.work / "things.json").read_text())]
        self._pictures = np.load(run.work / "pictures.npy", mmap_mode="r")
        self._depths = np.load(run.work / "depths.npy", mmap_mode="r")
        self._run = run

    def __len__(self) -> int:
        return 2 * len(self.things)

    def pixels(self, rows: NDArray[np.int64]) -> torch.Tensor:
        """Pictures float32 [len(rows), 3, pixels, pixels] in [-1, 1]."""
        return self._of(self._pictures, rows).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0).contiguous()

    def controls(self, rows: NDArray[np.int64]) -> torch.Tensor:
        """Depths as a ControlNet takes them, float32 [len(rows), 3, pixels, pixels] in [0, 1], near is 1."""
        return self._of(self._depths, rows)[:, None].float().div_(255.0).expand(-1, 3, -1, -1)

    def _of(self, images: NDArray[np.uint8], rows: NDArray[np.int64]) -> torch.Tensor:
        count = len(self.things)
        chosen = np.array(images[rows % count])
        mirrored = rows >= count
        chosen[mirrored] = chosen[mirrored, :, ::-1]
        return self._run.to_device(chosen)


def train_vae(run: Run) -> AutoencoderKL:
    """Goes on with the autoencoder of `scenes`, which knows neither saturated colours nor sharp silhouettes."""
    pictures = Pictures(run)
    run.seed_everything(2)
    vae = run.place(make_vae(run.size))
    if run.size.vae_channels == Size().vae_channels:
        vae.load_state_dict(AutoencoderKL.from_pretrained(zoo.path("scenes"), subfolder="vae").state_dict())
    batch = run.batch or (6 if run.device.type == "cpu" else 64)

    def loss(step: int, progress: float) -> Mapping[str, torch.Tensor]:
        rng, generator = run.draws(2, step), run.noise(2, step, 1)
        x = pictures.pixels(rng.integers(len(pictures), size=batch))
        z, kl = draw_latents(run, vae, x, generator)
        with run.autocast():
            y = vae.decode(z).sample
        losses = reconstruction_loss(y.float(), x)
        return {**losses, "loss": losses["loss"] + KL_WEIGHT * kl, "kl": kl.detach()}

    average = fit(run, "vae", {"vae": vae}, loss, peak=1e-3, steps=4_000, decay=0.995, warmup=50)
    trained: AutoencoderKL = average["vae"]
    return trained


@torch.no_grad()
def encode(run: Run, batch: int = 32) -> None:
    """Writes `latents.npy` (float16 [2 pictures, latent_channels, cells, cells], mean 0 and standard deviation 1 in
    each channel) and, last, `latents.pt`: the autoencoder whose latents these are."""
    if run.resume and (run.work / "latents.pt").is_file():
        return
    vae = make_vae(run.size)
    vae.load_state_dict(read_checkpoint(run, "vae")["average"]["vae"])
    vae = run.place(vae.requires_grad_(False).eval()).to(memory_format=torch.channels_last)
    pictures, parts = Pictures(run), []
    rows = np.arange(len(pictures))
    for part in tqdm(np.array_split(rows, -(-len(rows) // batch)), desc="latents", disable=not run.progress):
        with run.autocast():
            x = pictures.pixels(part).contiguous(memory_format=torch.channels_last)
            parts.append(vae.encode(x).latent_dist.mean.float().cpu().numpy())
    latents = np.concatenate(parts)
    mean = latents.mean((0, 2, 3), dtype=np.float64).astype(np.float32)
    std = latents.std((0, 2, 3), dtype=np.float64).astype(np.float32)
    vae = vae.to(memory_format=torch.contiguous_format)
    normalise_latents(vae, torch.from_numpy(mean).to(run.device), torch.from_numpy(std).to(run.device))
    latents = ((latents - mean[:, None, None]) / std[:, None, None]).astype(np.float16)
    with replacing(run.work / "latents.npy") as path, path.open("wb") as file:
        np.save(file, latents)
    with replacing(run.work / "latents.pt") as path:
        torch.save(vae.state_dict(), path)


def train_denoiser(run: Run) -> Mapping[str, nn.Module]:
    """Trains UNet, text encoder and ControlNet together: v-prediction of pictures whose depth is known."""
    pictures = Pictures(run)
    tokenizer = make_tokenizer(objects.vocabulary(), run.size.tokens)
    tokenizer.save_pretrained(run.work / "tokenizer")
    run.seed_everything(5)
    unet = run.place(make_unet(run.size))
    controlnet = run.place(make_controlnet(unet, run.size))
    if run.device.type == "cpu":
        for network in (unet, controlnet):
            network.set_attn_processor(AttnProcessor())  # plain products: on CPUs faster a step than the fused form
    text_encoder = run.place(make_text_encoder(tokenizer, run.size))
    latents = torch.from_numpy(np.load(run.work / "latents.npy")).to(run.device)
    signal = make_scheduler().alphas_cumprod.to(run.device)
    batch = run.batch or (32 if run.device.type == "cpu" else 256)

    def loss(step: int, progress: float) -> Mapping[str, torch.Tensor]:
        rng, generator = run.draws(5, step), run.noise(5, step, 1)
        rows = rng.integers(len(pictures), size=batch)
        texts = [stray(objects.caption(pictures.things[row % len(pictures.things)], rng), rng) for row in rows]
        texts = ["" if rng.random() < UNCONDITIONAL else text for text in texts]
        ids = run.to_device(tokens(tokenizer, texts).astype(np.int64))
        x0, control = latents[run.to_device(rows)].float(), pictures.controls(rows)
        # Times spread evenly over a batch: the same expectation as uniform ones, less noise in the gradient.
        spread = (np.arange(batch) + rng.random(batch)) / batch
        times = run.to_device((np.interp(spread, *TIMES) * len(signal)).astype(np.int64))
        a, b = signal[times].sqrt()[:, None, None, None], (1.0 - signal[times]).sqrt()[:, None, None, None]
        eps = torch.randn(x0.shape, generator=generator, device=run.device)
        with run.autocast():
            states, x = text_encoder(ids)[0], a * x0 + b * eps
            down, middle = controlnet(x, times, states, control, return_dict=False)
            v = unet(
                x,
                times,
                encoder_hidden_states=states,
                down_block_additional_residuals=down,
                mid_block_additional_residual=middle,
                return_dict=False,
            )[0]
        return {"loss": (v.float() - (a * eps - b * x0)).square().mean()}

    modules = {"unet": unet, "text_encoder": text_encoder, "controlnet": controlnet}
    return fit(run, "unet", modules, loss, peak=1.2e-3, steps=8_000, decay=0.998, warmup=150)


def export(run: Run, target: Path | None = None) -> None:
    """Writes `target/scenes-depth` (networks float16, text encoder float32); a reader never sees half of it."""
    if not (run.work / "unet.pt").is_file():
        raise FileNotFoundError(f"There is nothing to export in {run.work}; run the earlier stages first.")
    replace_folder((target or WEIGHTS) / "scenes-depth", lambda folder: _save_pipeline(run, folder))


def _save_pipeline(run: Run, folder: Path) -> None:
    tokenizer = load_tokenizer(run.work)
    average = read_checkpoint(run, "unet")["average"]
    unet, vae, text_encoder = make_unet(run.size), make_vae(run.size), make_text_encoder(tokenizer, run.size)
    controlnet = make_controlnet(unet, run.size)
    for name, module in (("unet", unet), ("text_encoder", text_encoder), ("controlnet", controlnet)):
        module.load_state_dict(average[name])
    vae.load_state_dict(torch.load(run.work / "latents.pt", map_location="cpu", weights_only=True))
    pipeline = make_pipeline(tokenizer, text_encoder, vae.half(), unet.half(), controlnet.half())
    pipeline.save_pretrained(folder)
    # Older releases of transformers read the tokenizer from these two.
    tokenizer.backend_tokenizer.model.save(str(folder / "tokenizer"))


def adopt(run: Run, source: Path | None = None) -> None:
    """Puts the weights of `source/scenes-depth` into the run's folder as `vae.pt` and `unet.pt`, at step 0.

    Go on with the stages `data`, `latents`, `unet` and `export`. Refuses to replace checkpoints that are there.
    """
    folder = (source or WEIGHTS) / "scenes-depth"
    write_checkpoint(run, "vae", {"vae": AutoencoderKL.from_pretrained(folder / "vae")})
    networks = {
        "unet": UNet2DConditionModel.from_pretrained(folder / "unet"),
        "text_encoder": CLIPTextModel.from_pretrained(folder / "text_encoder"),
        "controlnet": ControlNetModel.from_pretrained(folder / "controlnet"),
    }
    write_checkpoint(run, "unet", networks)
