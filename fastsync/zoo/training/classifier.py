"""The classifier's stage."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn.functional import avg_pool2d, cross_entropy, pad

from fastsync.zoo.classifier import HEADS, SceneClassifier
from fastsync.zoo.training.data import Pictures
from fastsync.zoo.training.run import Run, fit

WEATHER_WEIGHT = 0.5  # weather is a matter of degree; place and time are what is judged


def train_classifier(run: Run) -> SceneClassifier:
    """Trains place, time and weather on mirrored crops with a little blur, noise and colour shift."""
    pictures = Pictures(run)
    labels = run.to_device(pictures.labels)
    run.seed_everything(3)
    model = run.place(SceneClassifier())
    batch = run.batch or (32 if run.device.type == "cpu" else 128)

    def loss(step: int, progress: float) -> Mapping[str, torch.Tensor]:
        rng = run.draws(3, step)
        rows = rng.integers(len(pictures.scenes), size=batch)
        x = spoil(pictures.crops(rows, run.size.pixels, run.size.pixels, rng), run.noise(3, step, 1))
        with run.autocast():
            logits = model(x)
        target = labels[run.to_device(rows)]
        losses = {
            name: cross_entropy(logits[name].float(), target[:, k], label_smoothing=0.02)
            for k, name in enumerate(HEADS)
        }
        total = losses["place"] + losses["time"] + WEATHER_WEIGHT * losses["weather"]
        right = (logits["place"].argmax(1) == target[:, 0]).float().mean()
        return {"loss": total, "right": right, **{name: value.detach() for name, value in losses.items()}}

    average = fit(run, "classifier", {"model": model}, loss, peak=3e-3, steps=1500, decay=0.99, warmup=100)
    trained: SceneClassifier = average["model"]  # type: ignore[assignment]
    return trained


def spoil(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Blur on some windows, noise and a small shift of colour and contrast on all: [B, 3, H, W] in [0, 1], likewise."""
    count = len(x)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator, device=x.device)

    blurred = avg_pool2d(pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    amount = (uniform(count, 1, 1, 1) * 2.0 - 1.0).clamp(min=0.0)
    x = x + amount * (blurred - x)
    gain, shift = 0.95 + 0.1 * uniform(count, 3, 1, 1), 0.04 * (uniform(count, 3, 1, 1) - 0.5)
    noise = torch.randn(x.shape, generator=generator, device=x.device)
    return (x * gain + shift + 0.03 * uniform(count, 1, 1, 1) * noise).clamp(0.0, 1.0)
