"""Families of tiny pipelines: how each is built, and what its call takes for one picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

PROMPTS = ("a cat", "big dog", "red", "12 owls", "ZEBRA", "*!?")  # short: the tokenizers know letters, and few fit
NEGATIVE = "grey"
FAMILIES: dict[str, Family] = {}


@dataclass
class Draw:
    """What one picture's call is made of: a prompt, and random tensors that depend on ``index`` alone."""

    index: int
    dtype: torch.dtype = torch.float32
    generator: torch.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.generator = torch.Generator().manual_seed(1000 + self.index)

    @property
    def prompt(self) -> str:
        return PROMPTS[self.index % len(PROMPTS)]

    def randn(self, *shape: int) -> torch.Tensor:
        """Normal numbers of the pipeline's dtype: embeddings."""
        return torch.randn(shape, generator=self.generator).to(self.dtype)

    def picture(self, height: int = 16, width: int = 16) -> torch.Tensor:
        """Random pixels ``[1, 3, height, width]`` in 0..1, float32."""
        return torch.rand(1, 3, height, width, generator=self.generator)

    def mask(self, height: int = 16, width: int = 16) -> torch.Tensor:
        """Zeros and ones ``[1, 1, height, width]``, float32: the right half and a few pixels of the left."""
        mask = (torch.rand(1, 1, height, width, generator=self.generator) > 0.8).float()
        mask[..., width // 2 :] = 1.0
        return mask


@dataclass(frozen=True)
class Family:
    """One kind of pipeline.

    Attributes:
        name: key in ``FAMILIES``.
        build: makes the pipeline; called under a seeded global generator that is restored afterwards.
        arguments: ``Draw`` to what ``__call__`` takes for one picture.
        curve: ``"vp"`` or ``"flow"``: which schedulers make sense (``families.schedulers``); ``"other"``: its own.
        needs: what its loop asks of whoever learns it: ``"replay"`` (every step is the same recipe), ``"reentry"``
            (the recipe or an input changes over the steps), ``"refusal"`` (no single sampled state to be learnt).
        steps: the number of steps that its short run takes.
        why: one line where its loop is peculiar.
        matters: arguments that must change the picture when the index does, one by one.
        latent: its ``output_type`` "latent" gives the final state (False: it samples pixels, or has no such output).
    """

    name: str
    build: Callable[[], Any]
    arguments: Callable[[Draw], dict[str, Any]]
    curve: str = "vp"
    needs: str = "replay"
    steps: int = 4
    why: str = ""
    matters: tuple[str, ...] = ("prompt",)
    latent: bool = True

    def make(self, *, dtype: torch.dtype = torch.float32, seed: int = 0, scheduler: Any = None) -> Any:
        """A new pipeline whose weights depend on ``seed`` alone; the global random state is left as it was.

        ``scheduler`` is a scheduler, or maps the pipeline's own one to another.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            pipe = self.build()
        for part in pipe.components.values():
            if isinstance(part, torch.nn.Module):
                part.eval()
        if scheduler is not None:
            pipe.scheduler = scheduler(pipe.scheduler) if callable(scheduler) else scheduler
        pipe.set_progress_bar_config(disable=True)
        return pipe if dtype == torch.float32 else pipe.to(dtype)

    def call(self, index: int = 0, *, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
        """Arguments of ``__call__`` for picture ``index``, new tensors each time; neither steps nor generator."""
        return self.arguments(Draw(index, dtype))


def family(
    name: str, arguments: Callable[[Draw], dict[str, Any]], **facts: Any
) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Register the decorated builder as ``FAMILIES[name]``."""

    def add(build: Callable[[], Any]) -> Callable[[], Any]:
        if name in FAMILIES:
            raise ValueError(f"two families are named {name!r}")
        FAMILIES[name] = Family(name, build, arguments, **facts)
        return build

    return add
