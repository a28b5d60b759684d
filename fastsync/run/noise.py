"""The noise of a run: drawn in step order from one generator, whatever the order of work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..canvases.base import LinearCanvas
from ..priors.base import Prior
from ..scheduling import Work
from .units import decodes


class Noise:
    """Canvas noises of all steps, and what else a method draws.

    Args:
        prior: whose dtype decides the precision that noise is drawn in, as diffusers does.
        canvas: whose maps project one canvas noise to all views.
        generator: None draws from torch's global one.
        stochastic: whether the steps add noise.
        dtype, device: of what is handed out.

    Attributes:
        candidates: how many noises beside its own each step has; a method that wants some sets it before the run.
    """

    def __init__(
        self,
        prior: Prior,
        canvas: LinearCanvas,
        generator: torch.Generator | None,
        *,
        stochastic: bool,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._view_shape, self._canvas, self.generator = prior.view_shape, canvas, generator
        half = prior.dtype in (torch.float16, torch.bfloat16)
        self._drawn_dtype, self._dtype, self._device = prior.dtype if half else dtype, dtype, device
        # Latents have no noise in common with a canvas in pixels.
        self._projected = canvas.whiteness != "none" and not decodes(prior, canvas)
        self._stochastic, self.candidates = stochastic, 0
        self._pending: dict[int, list[torch.Tensor]] = {}
        self._readers: dict[int, int] = {}
        self._drawn = 0

    def draw(self, shape: Sequence[int]) -> torch.Tensor:
        """Standard normal noise, drawn where and in what diffusers would draw it."""
        device = self.generator.device if self.generator is not None else self._device
        drawn = torch.randn(tuple(shape), generator=self.generator, device=device, dtype=self._drawn_dtype)
        return drawn.to(self._device, self._dtype)

    def views(self) -> torch.Tensor:
        """Noise [N, C, h, w] of all views: one canvas noise projected, or drawn for each where that is not white."""
        c, h, w = self._view_shape
        if not self._projected:
            return self.draw((self._canvas.num_views, c, h, w))
        return self._canvas.project_noise(self.draw((1, c, *self._canvas.size)))

    def of(self, work: Work) -> torch.Tensor | None:
        """Noise [B, C, h, w] of the items' steps; None where steps add none."""
        if not self._stochastic and not self.candidates:
            return None
        self._draw_until(max(k for _, k in work))
        return torch.stack([self._pending[k][-1][i] for i, k in work]) if self._stochastic else None

    def candidate(self, work: Work, number: int) -> torch.Tensor:
        """As ``of``: the items' noise for a candidate, numbered from 0."""
        self._draw_until(max(k for _, k in work))
        return torch.stack([self._pending[k][number][i] for i, k in work])

    def done(self, work: Work) -> None:
        """Drop the noise of steps that every view has finished.

        Not on reading: a batch that does not fit the memory is tried again in smaller pieces, and reads it again.
        """
        for _, k in work:
            if k in self._readers:
                self._readers[k] -= 1
                if not self._readers[k]:
                    del self._pending[k], self._readers[k]

    def _draw_until(self, last: int) -> None:
        while self._drawn <= last:
            self._pending[self._drawn] = [self.views() for _ in range(self.candidates + self._stochastic)]
            self._readers[self._drawn] = self._canvas.num_views
            self._drawn += 1

    def state_dict(self) -> dict[str, Any]:
        """What has been drawn and not been used up, and the generator's state."""
        if self.generator is not None:
            generator = self.generator.get_state()
        elif self._device.type == "cuda":
            generator = torch.cuda.get_rng_state(self._device)
        else:
            generator = torch.get_rng_state()
        return {"drawn": self._drawn, "pending": self._pending, "readers": self._readers, "generator": generator}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where ``state_dict`` was called. Without a generator of one's own the run gets one, in that state."""
        if self.generator is None:
            self.generator = torch.Generator(self._device if self._device.type == "cuda" else "cpu")
        try:
            self.generator.set_state(state["generator"].cpu())
        except RuntimeError as error:
            raise ValueError(
                f"the state's generator is of another device than this run's, which is on {self.generator.device}: "
                "build the session with a generator on the device that the state was taken with."
            ) from error
        self._drawn, self._pending, self._readers = state["drawn"], state["pending"], state["readers"]
