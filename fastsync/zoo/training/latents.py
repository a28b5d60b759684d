"""The latents stage: what the denoiser reads, pictures as wide latents and captions as tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from tqdm import tqdm
from transformers import CLIPTokenizer

from fastsync.files import replacing
from fastsync.zoo import scenes
from fastsync.zoo.models import make_tokenizer, make_vae
from fastsync.zoo.training.data import Pictures
from fastsync.zoo.training.run import Run
from fastsync.zoo.training.vae import normalise_latents

CAPTIONS = 12  # of each picture
STRAY = 0.1  # captions with a stray word or comma: what the grammar does not know must not derail a prompt


def encode_windows(run: Run, batch: int = 4) -> None:
    """Encodes every picture once, half of them mirrored; the denoiser cuts its windows from these wide latents.

    Writes `latents.npy` (float16 [pictures, latent_channels, cells, wide cells], mean 0 and standard deviation 1 in
    each channel), `captions.npy` (int16 [pictures, CAPTIONS, tokens]), `tokenizer/` and, last, `latents.pt`: the
    autoencoder whose latents these are.
    """
    if run.resume and (run.work / "latents.pt").is_file():
        return
    vae = run.place(make_vae(run.size))
    vae.load_state_dict(torch.load(run.work / "vae.pt", map_location=run.device, weights_only=True)["average"]["vae"])
    vae.requires_grad_(False).eval()
    pictures = Pictures(run)
    tokenizer = make_tokenizer(scenes.vocabulary(), run.size.tokens)
    tokenizer.save_pretrained(run.work / "tokenizer")
    captions = tokenise(tokenizer, pictures.scenes, run.draws(4))
    with replacing(run.work / "captions.npy") as path:
        np.save(path, captions)

    latents = _encode(run, vae, pictures, batch)
    mean = latents.mean((0, 2, 3), dtype=np.float64).astype(np.float32)
    std = latents.std((0, 2, 3), dtype=np.float64).astype(np.float32)
    normalise_latents(vae, torch.from_numpy(mean).to(run.device), torch.from_numpy(std).to(run.device))
    latents = ((latents - mean[:, None, None]) / std[:, None, None]).astype(np.float16)
    with replacing(run.work / "latents.npy") as path:
        np.save(path, latents)
    with replacing(run.work / "latents.pt") as path:
        torch.save(vae.state_dict(), path)


@torch.no_grad()
def _encode(run: Run, vae: AutoencoderKL, pictures: Pictures, batch: int) -> NDArray[np.float32]:
    count, height, width, _ = pictures.images.shape
    vae = vae.to(memory_format=torch.channels_last)  # here, without a backward, faster on CPUs too
    parts = []
    for first in tqdm(range(0, count, batch), desc="latents", unit="batch", disable=not run.progress, mininterval=5):
        rows = np.arange(first, min(first + batch, count))
        x = pictures.crops(rows, height, width, run.draws(4, first)) * 2.0 - 1.0
        x = x.contiguous(memory_format=torch.channels_last)
        with run.autocast():
            parts.append(vae.encode(x).latent_dist.mean.float().cpu().numpy())
    vae.to(memory_format=torch.contiguous_format)
    return np.concatenate(parts)


def tokenise(
    tokenizer: CLIPTokenizer, pictures: list[scenes.Scene], rng: np.random.Generator, each: int = CAPTIONS
) -> NDArray[np.int16]:
    """`each` captions of every picture as token numbers, padded: int16 [pictures, each, tokens]."""
    texts = [stray(scenes.caption(scene, rng), rng) for scene in pictures for _ in range(each)]
    return tokens(tokenizer, texts).reshape(len(pictures), each, -1)


def tokens(tokenizer: CLIPTokenizer, texts: list[str]) -> NDArray[np.int16]:
    """Prompts as a pipeline tokenises them: int16 [len(texts), tokens]."""
    arguments: dict[str, Any] = {"padding": "max_length", "max_length": tokenizer.model_max_length, "truncation": True}
    return np.array(tokenizer(texts, **arguments).input_ids, np.int16)


def stray(text: str, rng: np.random.Generator) -> str:
    """Now and then a word that means nothing, or a comma, somewhere in a caption."""
    if rng.random() >= STRAY:
        return text
    words = text.split()
    letters = "abcdefghijklmnopqrstuvwxyz"
    noise = "," if rng.random() < 0.4 else "".join(letters[int(i)] for i in rng.integers(26, size=rng.integers(3, 8)))
    words.insert(int(rng.integers(len(words) + 1)), noise)
    return " ".join(words)


def load_tokenizer(work: Path) -> CLIPTokenizer:
    """The tokenizer that a run's captions were written with."""
    tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer")
    return tokenizer
