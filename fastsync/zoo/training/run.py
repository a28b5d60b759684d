"""What every stage of a training shares: its folder, device, seeds, budget, checkpoints and averages."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from fastsync.files import replacing
from fastsync.zoo.models import Size
from fastsync.zoo.training.muon import Muon

SAVE_EVERY = 150.0  # seconds between checkpoints


@dataclass
class Run:
    """One training: where its files are, what it runs on, and how long each stage may take."""

    work: Path
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    size: Size = field(default_factory=Size)
    seed: int = 0
    steps: int | None = None  # one of steps and minutes ends a stage; neither: the stage's own number of steps
    minutes: float | None = None
    batch: int | None = None  # None: the stage's own
    resume: bool = True
    progress: bool = True

    def __post_init__(self) -> None:
        self.work.mkdir(parents=True, exist_ok=True)

    def autocast(self) -> AbstractContextManager[Any]:
        """bfloat16 where the network runs; losses and weights stay float32."""
        return torch.autocast(self.device.type, torch.bfloat16)

    def draws(self, *key: int) -> np.random.Generator:
        """Random choices that depend on the seed and the key alone: a resumed run draws what it would have drawn."""
        return np.random.default_rng([self.seed, *key])

    def noise(self, *key: int) -> torch.Generator:
        """As `draws`, for tensors on the device."""
        return torch.Generator(self.device).manual_seed(int(self.draws(*key).integers(2**62)))

    def seed_everything(self, *key: int) -> None:
        """Seeds torch's own generator, from which fresh weights are drawn."""
        torch.manual_seed(int(self.draws(*key).integers(2**62)))

    def to_device(self, array: np.ndarray[Any, Any]) -> torch.Tensor:
        """An array on the device; from pinned memory where that helps."""
        tensor = torch.from_numpy(array)
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor

    def place(self, module: torch.nn.Module) -> Any:
        """A module on the device, in the memory order that is fast there (channels-last on CUDA only)."""
        if self.device.type == "cuda":
            return module.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return module.to(self.device)


def learning_rate(progress: float, step: int, peak: float, warmup: int, floor: float = 0.01) -> float:
    """A linear warm-up, then a cosine from `peak` to `floor * peak` as `progress` goes from 0 to 1."""
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))
    return peak * min(1.0, (step + 1) / max(warmup, 1)) * (floor + (1.0 - floor) * cosine)


class Average:
    """Exponential moving averages of modules' weights: modules of their own, without gradients."""

    def __init__(self, modules: Mapping[str, torch.nn.Module], decay: float) -> None:
        self.decay = decay
        self.modules = {name: deepcopy(module).requires_grad_(False).eval() for name, module in modules.items()}

    @torch.no_grad()
    def update(self, modules: Mapping[str, torch.nn.Module], step: int) -> None:
        """Moves towards `modules`; early steps move further, so that the first weights are soon forgotten."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, average in self.modules.items():
            mine, theirs = ([p.detach() for p in module.parameters()] for module in (average, modules[name]))
            torch._foreach_lerp_(mine, theirs, 1.0 - decay)


def fit(
    run: Run,
    stage: str,
    modules: Mapping[str, torch.nn.Module],
    loss: Callable[[int, float], Mapping[str, torch.Tensor]],
    *,
    peak: float,
    steps: int,
    decay: float,
    warmup: int = 200,
    weight_decay: float = 0.01,
    betas: tuple[float, float] = (0.9, 0.99),
) -> Mapping[str, torch.nn.Module]:
    """Trains `modules` until the budget is spent; returns their averages.

    `loss(step, progress)` gives named losses, `"loss"` the one to descend; `progress` goes from 0 to 1. The file
    `STAGE.pt` in the run's folder holds everything to go on from, written every `SAVE_EVERY` seconds and at the end;
    a stage that had ended returns its averages at once.
    """
    if run.steps is not None:
        steps = run.steps
    budget = None if run.minutes is None else 60.0 * run.minutes
    average = Average(modules, decay)
    parameters = [p for module in modules.values() for p in module.parameters() if p.requires_grad]
    optimizer = Muon(parameters, lr=peak, weight_decay=weight_decay, betas=betas)
    path = run.work / f"{stage}.pt"
    step, spent = 0, 0.0
    if run.resume and path.is_file():
        state = torch.load(path, map_location=run.device, weights_only=True)
        for name, module in modules.items():
            module.load_state_dict(state["modules"][name])
            average.modules[name].load_state_dict(state["average"][name])
        if "optimizer" in state:  # adopted weights have none
            optimizer.load_state_dict(state["optimizer"])
        step, spent = state["step"], state["spent"]

    def save() -> None:
        state = {
            "modules": {name: module.state_dict() for name, module in modules.items()},
            "average": {name: module.state_dict() for name, module in average.modules.items()},
            "optimizer": optimizer.state_dict(),
            "step": step,
            "spent": spent,
        }
        with replacing(path) as temporary:
            torch.save(state, temporary)

    def done() -> float:
        return step / max(steps, 1) if budget is None else spent / max(budget, 1e-9)

    def position() -> int:
        return step if budget is None else min(int(spent), int(budget))

    total = steps if budget is None else int(budget)
    unit = "step" if budget is None else "s"
    smooth: dict[str, float] = {}
    last_save = last_note = time.monotonic()
    for module in modules.values():
        module.train()
    with tqdm(total=total, initial=position(), desc=stage, unit=unit, disable=not run.progress, mininterval=5) as bar:
        while done() < 1.0:
            started = time.monotonic()
            rate = learning_rate(done(), step, peak, warmup)
            for group in optimizer.param_groups:
                group["lr"] = rate
            losses = loss(step, done())
            losses["loss"].backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0, error_if_nonfinite=True)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            average.update(modules, step)
            if step % 5 == 0:
                for name, value in losses.items():
                    number = float(value.detach())
                    smooth[name] = 0.8 * smooth.get(name, number) + 0.2 * number
            step += 1
            now = time.monotonic()
            spent += now - started
            bar.update(position() - bar.n)
            if now - last_note > 20.0:
                last_note = now
                bar.set_postfix_str(f"step {step} lr {rate:.1e} " + " ".join(f"{k} {v:.4f}" for k, v in smooth.items()))
            if now - last_save > SAVE_EVERY:
                save()
                last_save = time.monotonic()
    save()
    return average.modules
