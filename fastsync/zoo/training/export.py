"""The export stage: averaged weights into the package, in diffusers' own format."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from fastsync.zoo.classifier import SceneClassifier
from fastsync.zoo.models import make_pipeline, make_text_encoder, make_unet, make_vae
from fastsync.zoo.training.latents import load_tokenizer
from fastsync.zoo.training.run import Run

WEIGHTS = Path(__file__).parents[1] / "weights"


def export(run: Run, target: Path | None = None) -> None:
    """Writes `target/scenes` and `target/scenes-classifier` (each where its checkpoints exist); readers never see half.

    UNet and autoencoder are stored as float16, the text encoder as float32. A checkpoint of an unfinished training
    exports as it is.
    """
    target = target or WEIGHTS
    done = False
    if (run.work / "classifier.pt").is_file():
        model = SceneClassifier()
        model.load_state_dict(read_checkpoint(run, "classifier")["average"]["model"])
        replace_folder(target / "scenes-classifier", model.save)
        done = True
    if (run.work / "unet.pt").is_file():
        replace_folder(target / "scenes", lambda folder: _save_pipeline(run, folder))
        done = True
    if not done:
        raise FileNotFoundError(f"There is nothing to export in {run.work}; run the earlier stages first.")


def read_checkpoint(run: Run, stage: str) -> dict[str, dict[str, dict[str, torch.Tensor]]]:
    """What `fit` saved of a stage, on the CPU: `["average"]` holds the weights of each module by name."""
    state: dict[str, dict[str, dict[str, torch.Tensor]]] = torch.load(
        run.work / f"{stage}.pt", map_location="cpu", weights_only=True
    )
    return state


def _save_pipeline(run: Run, folder: Path) -> None:
    tokenizer = load_tokenizer(run.work)
    average = read_checkpoint(run, "unet")["average"]
    unet, vae, text_encoder = make_unet(run.size), make_vae(run.size), make_text_encoder(tokenizer, run.size)
    unet.load_state_dict(average["unet"])
    text_encoder.load_state_dict(average["text_encoder"])
    vae.load_state_dict(torch.load(run.work / "latents.pt", map_location="cpu", weights_only=True))
    if (run.work / "decoder.pt").is_file():
        for name, weights in read_checkpoint(run, "decoder")["average"].items():
            getattr(vae, name).load_state_dict(weights)
    make_pipeline(tokenizer, text_encoder, vae.half(), unet.half()).save_pretrained(folder)
    # Older releases of transformers read the tokenizer from these two.
    tokenizer.backend_tokenizer.model.save(str(folder / "tokenizer"))


def replace_folder(target: Path, fill: Callable[[Path], object]) -> None:
    """`fill` writes into a fresh folder, which then takes the place of `target`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh, old = target.with_name(f".{target.name}.new"), target.with_name(f".{target.name}.old")
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    fresh.mkdir()
    try:
        fill(fresh)
        for path in fresh.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)  # safetensors leaves its files to their owner alone
        if target.exists():
            target.rename(old)
        fresh.rename(target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
