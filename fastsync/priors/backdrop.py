"""A prior that knows what is beside the object in each view."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..conditions import Condition, members
from .base import NetworkPrior
from .compiling import Compiler
from .reuse import DeepFeatures


class BackdropPrior(NetworkPrior):
    """Another prior, told the clean picture beside the objects: its estimate there is that picture.

    Where a view's background is known (a flat colour behind a mesh), the network's output is replaced by the one that
    belongs to it, ``x0 = z`` and ``eps = (x - a z) / b``, whatever the kind of prediction. Deterministic steps then
    carry the background's own noise down to it, every method and order runs as ever, and all is differentiable. The
    published set-ups paste the noised background into the states after every step (SyncMVD, Liu 2024).

    Args:
        prior: the prior that is asked, a :class:`NetworkPrior`. Conditions are its own, a tuple, followed by the
            backdrop, see :meth:`with_backdrop`.
    """

    def __init__(self, prior: Any) -> None:
        self.prior, self.schedule = prior, prior.schedule

    @staticmethod
    def with_backdrop(condition: Condition, backdrop: torch.Tensor, beside: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """A condition of this prior.

        Args:
            condition: of the prior that is asked.
            backdrop: [N, C, h, w] in that prior's sample units.
            beside: bool [N, 1, h, w], where it is seen.
        """
        return (*members(condition), backdrop, beside)

    @property
    def pipe(self) -> Any:
        """The diffusers pipeline, where there is one."""
        return self.prior.pipe

    @property
    def compiler(self) -> Compiler | None:
        """Of its network."""
        compiler: Compiler | None = self.prior.compiler
        return compiler

    def encode_prompt(self, prompt: Any, negative_prompt: Any = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Text embeddings ``(cond, uncond)``, as of the prior that is asked."""
        cond, uncond = self.prior.encode_prompt(prompt, negative_prompt)
        return cond, uncond

    @property
    def view_shape(self) -> tuple[int, int, int]:
        """(C, h, w), as of the prior that is asked; so are all the others."""
        shape: tuple[int, int, int] = self.prior.view_shape
        return shape

    @property
    def scale(self) -> int:
        """Pixels a latent cell."""
        return int(getattr(self.prior, "scale", 1))

    @property
    def device(self) -> torch.device:
        device: torch.device = self.prior.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.prior.dtype
        return dtype

    def prepare_conditions(
        self, cond: Condition | None, uncond: Condition | None, num_views: int
    ) -> tuple[Condition | None, Condition | None]:
        """Let the prior that is asked prepare its own part."""
        own, backdrop = self._split(cond)
        own_uncond = None if uncond is None else self._split(uncond)[0]
        prepare = getattr(self.prior, "prepare_conditions", None)
        if prepare is not None:
            own, own_uncond = prepare(own, own_uncond, num_views)
        return (*members(own), *backdrop), None if own_uncond is None else (*members(own_uncond), *backdrop)

    @staticmethod
    def _split(cond: Condition | None) -> tuple[Condition, tuple[torch.Tensor, ...]]:
        """The other prior's condition and the backdrop."""
        if not isinstance(cond, tuple) or len(cond) < 3:
            raise ValueError("cond has no backdrop: pass BackdropPrior.with_backdrop(cond, backdrop, beside).")
        own = cond[:-2]
        return (own[0] if len(own) == 1 else own), cond[-2:]

    def network(self, x: torch.Tensor, t: torch.Tensor, cond: Condition | None) -> torch.Tensor:
        """The prior's own output on the object, the backdrop's beside it."""
        own, (backdrop, beside) = self._split(cond)
        raw: torch.Tensor = self.prior.network(x, t, own)
        a, b = (c.to(x.dtype)[:, None, None, None] for c in self.schedule.coefficients(t))
        clean = backdrop.to(x.dtype)
        eps = (x - a * clean) / b
        known = {"epsilon": eps, "v_prediction": a * eps - b * clean, "sample": clean, "flow": eps - clean}
        return torch.where(beside, known[self.schedule.prediction_type].to(raw.dtype), raw)

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        latents: torch.Tensor = self.prior.encode(pixels)
        return latents

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        pixels: torch.Tensor = self.prior.decode(latents)
        return pixels

    def deep_features(self) -> DeepFeatures:
        features: DeepFeatures = self.prior.deep_features()
        return features

    @contextmanager
    def sampling(self) -> Iterator[None]:
        with self.prior.sampling():
            yield
