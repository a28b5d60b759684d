"""The stages of the prior `glyphs`: pictures, classifier, denoiser, export. It lives in pixels: no autoencoder."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm
from transformers import T5EncoderModel

from fastsync.files import replacing
from fastsync.zoo import glyphs
from fastsync.zoo.classifier import GlyphClassifier
from fastsync.zoo.pixel_models import (
    TOKENS,
    PixelSize,
    make_pipeline,
    make_scheduler,
    make_text_encoder,
    make_tokenizer,
    make_unet,
)
from fastsync.zoo.training.adopt import write_checkpoint
from fastsync.zoo.training.classifier import spoil
from fastsync.zoo.training.export import WEIGHTS, read_checkpoint, replace_folder
from fastsync.zoo.training.run import Run, fit

HELD_OUT = 2**40  # seeds from here on are never trained on
UNCONDITIONAL = 0.1  # share of pictures with the empty caption, for classifier-free guidance


def held_out_glyphs(count: int, seed: int, size: int = 64) -> tuple[NDArray[np.uint8], list[glyphs.Glyph]]:
    """Pictures that no training saw, uint8 [count, size, size, 3], all characters in turn."""
    rng = np.random.default_rng([seed, 7])
    drawn = [glyphs.sample_glyph(rng, glyphs.CHARACTERS[k % len(glyphs.CHARACTERS)]) for k in range(count)]
    drawn = [glyphs.Glyph(g.character, g.hand, g.ink, g.paper, HELD_OUT + g.seed) for g in drawn]
    return np.stack([glyphs.render(glyph, size) for glyph in drawn]), drawn


def paint(run: Run, count: int = 30_000, size: int = 64, workers: int = 2) -> None:
    """Writes `glyphs.npy` (uint8 [count, size, size, 3]) and `glyphs.json`; nothing to do where both exist."""
    if run.resume and (run.work / "glyphs.json").is_file():
        return
    rng = run.draws(1)
    drawn = [glyphs.sample_glyph(rng) for _ in range(count)]
    images = np.empty((count, size, size, 3), np.uint8)
    with (
        multiprocessing.get_context("spawn").Pool(workers) as pool,
        tqdm(total=count, desc="data", unit="picture", disable=not run.progress, mininterval=5) as bar,
    ):
        for k, image in enumerate(pool.imap(_render, ((glyph, size) for glyph in drawn), chunksize=64)):
            images[k] = image
            bar.update()
    with replacing(run.work / "glyphs.npy") as path, path.open("wb") as file:
        np.save(file, images)
    with replacing(run.work / "glyphs.json") as path:
        path.write_text(json.dumps([asdict(glyph) for glyph in drawn]))


def _render(what: tuple[glyphs.Glyph, int]) -> NDArray[np.uint8]:
    return glyphs.render(*what)


class Pictures:
    """The painted pictures of a run."""

    def __init__(self, run: Run) -> None:
        self.glyphs = [glyphs.Glyph(**fields) for fields in json.loads((run.work / "glyphs.json").read_text())]
        self.images = np.load(run.work / "glyphs.npy", mmap_mode="r")
        self.labels = np.array([glyphs.CHARACTERS.index(glyph.character) for glyph in self.glyphs])
        self._run = run

    def pixels(self, rows: NDArray[np.int64]) -> torch.Tensor:
        """The named pictures, float32 [len(rows), 3, size, size] in [0, 1]."""
        return self._run.to_device(self.images[rows]).permute(0, 3, 1, 2).float().div_(255.0).contiguous()


def train_classifier(run: Run) -> GlyphClassifier:
    """Trains the 36 characters on pictures with a little blur, noise and colour shift."""
    pictures = Pictures(run)
    labels = run.to_device(pictures.labels)
    run.seed_everything(3)
    model = run.place(GlyphClassifier())
    batch = run.batch or 64

    def loss(step: int, progress: float) -> Mapping[str, torch.Tensor]:
        rows = run.draws(3, step).integers(len(pictures.glyphs), size=batch)
        x = spoil(pictures.pixels(rows), run.noise(3, step, 1))
        with run.autocast():
            logits = model(x)["character"]
        target = labels[run.to_device(rows)]
        right = (logits.argmax(1) == target).float().mean()
        return {"loss": cross_entropy(logits.float(), target, label_smoothing=0.02), "right": right}

    average = fit(run, "classifier", {"model": model}, loss, peak=3e-3, steps=1200, decay=0.99, warmup=100)
    trained: GlyphClassifier = average["model"]  # type: ignore[assignment]
    return trained


def train_denoiser(run: Run, size: PixelSize | None = None) -> Mapping[str, nn.Module]:
    """Trains v-prediction on the pictures in [-1, 1]; returns the averages `unet` and `text_encoder`."""
    size = size or PixelSize()
    pictures = Pictures(run)
    tokenizer = make_tokenizer(glyphs.vocabulary())
    tokenizer.save_pretrained(run.work / "tokenizer")
    run.seed_everything(5)
    unet = run.place(make_unet(size))
    if run.device.type == "cpu":
        unet.set_attn_processor(AttnProcessor())  # plain products: on CPUs faster a step than the fused form
    text_encoder = run.place(make_text_encoder(tokenizer, size))
    signal = make_scheduler().alphas_cumprod.to(run.device)
    batch = run.batch or (32 if run.device.type == "cpu" else 256)

    def loss(step: int, progress: float) -> Mapping[str, torch.Tensor]:
        rng, generator = run.draws(5, step), run.noise(5, step, 1)
        rows = rng.integers(len(pictures.glyphs), size=batch)
        x0 = pictures.pixels(rows) * 2.0 - 1.0
        texts = [glyphs.caption(pictures.glyphs[row], rng) for row in rows]
        texts = ["" if rng.random() < UNCONDITIONAL else text for text in texts]
        # As IFPipeline calls it, whose states of the padding reach the UNet too.
        tokens = tokenizer(texts, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt")
        ids, mask = tokens.input_ids.to(run.device), tokens.attention_mask.to(run.device)
        # Times spread evenly over a batch: the same expectation as uniform ones, less noise in the gradient.
        spread = (np.arange(batch) + rng.random(batch)) / batch
        times = run.to_device((spread * len(signal)).astype(np.int64))
        a, b = signal[times].sqrt()[:, None, None, None], (1.0 - signal[times]).sqrt()[:, None, None, None]
        eps = torch.randn(x0.shape, generator=generator, device=run.device)
        with run.autocast():
            states = text_encoder(ids, attention_mask=mask)[0]
            v = unet(a * x0 + b * eps, times, encoder_hidden_states=states, return_dict=False)[0][:, :3]
        return {"loss": (v.float() - (a * eps - b * x0)).square().mean()}

    modules = {"unet": unet, "text_encoder": text_encoder}
    return fit(run, "unet", modules, loss, peak=1.2e-3, steps=6_000, decay=0.998, warmup=150)


def export(run: Run, target: Path | None = None, size: PixelSize | None = None) -> None:
    """Writes `target/glyphs` (UNet float16, text encoder float32) and `target/glyphs-classifier`, each as a whole."""
    target, done = target or WEIGHTS, False
    if (run.work / "classifier.pt").is_file():
        model = GlyphClassifier()
        model.load_state_dict(read_checkpoint(run, "classifier")["average"]["model"])
        replace_folder(target / "glyphs-classifier", model.save)
        done = True
    if (run.work / "unet.pt").is_file():
        replace_folder(target / "glyphs", lambda folder: _save_pipeline(run, folder, size or PixelSize()))
        done = True
    if not done:
        raise FileNotFoundError(f"There is nothing to export in {run.work}; run the earlier stages first.")


def adopt(run: Run, source: Path | None = None) -> None:
    """Puts the weights of `source/glyphs` into the run's folder as `unet.pt`, at step 0, to be trained further."""
    folder = (source or WEIGHTS) / "glyphs"
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    text_encoder = T5EncoderModel.from_pretrained(folder / "text_encoder")
    write_checkpoint(run, "unet", {"unet": unet, "text_encoder": text_encoder})


def _save_pipeline(run: Run, folder: Path, size: PixelSize) -> None:
    tokenizer = make_tokenizer(glyphs.vocabulary())
    average = read_checkpoint(run, "unet")["average"]
    unet, text_encoder = make_unet(size), make_text_encoder(tokenizer, size)
    unet.load_state_dict(average["unet"])
    text_encoder.load_state_dict(average["text_encoder"])
    with torch.no_grad():  # the variance, which nothing trained
        unet.conv_out.weight[3:].zero_()
        unet.conv_out.bias[3:].zero_()
    make_pipeline(tokenizer, text_encoder, unet.half()).save_pretrained(folder)
