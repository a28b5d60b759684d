"""One run of N views over T steps: the parts that a method works with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..canvases.base import LinearCanvas
from ..priors.base import Prior
from ..scheduling import Work
from ..stats import Stats
from ..transfer import to_device
from .network import Network
from .noise import Noise
from .states import States
from .stepper import Estimates, Stepper
from .timetable import Timetable
from .units import decodes


@dataclass(frozen=True)
class Run:
    """What a method is bound to.

    Attributes:
        prior, canvas: what is sampled, and on what.
        times: the step table; its tensors live on the run's device.
        states: noisy states and clean estimates of all views.
        noise: drawn in step order.
        network: the prior with the run's conditions and guidance.
        stepper: the solver.
        sources: for each view the earlier views that it reads.
        order: views in work order.
        stats: what the run has spent so far.
        num_inference_steps: as asked for; the table has as many steps, unless the method makes its own.
    """

    prior: Prior
    canvas: LinearCanvas
    times: Timetable
    states: States
    noise: Noise
    network: Network
    stepper: Stepper
    sources: Sequence[Sequence[int]]
    order: Sequence[int]
    stats: Stats
    num_inference_steps: int

    @property
    def dtype(self) -> torch.dtype:
        """Of states and canvas, float32 or float64."""
        return self.states.dtype

    @property
    def device(self) -> torch.device:
        """Of states and canvas."""
        return self.states.device

    @property
    def in_pixels(self) -> bool:
        """Whether the canvas is in pixels while the prior's views are latents."""
        return decodes(self.prior, self.canvas)

    def finish(self, work: Work, estimates: Estimates) -> None:
        """Take the batch one step on from what the method estimates."""
        x_next = self.stepper.step(estimates, work)
        self.states.store(work, x_next, estimates.prediction.x0)
        self.noise.done(work)

    # ---- between views, canvas and pixels ---------------------------------------------------------------------

    def project_over(self, z: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        """What the views show of a clean canvas [1, C, H, W]; beside it they keep their own [N, C, h, w]."""
        views, foreground = self.canvas.project(z), self.canvas.foreground
        return views if foreground is None else torch.where(to_device(foreground, z.device), views, own)

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels [B, 3, H, W] to the prior's sample units, in the states' precision and place."""
        return self.prior.encode(pixels.to(self.network.device)).to(self.device, self.dtype)

    def decode(self, x0: torch.Tensor) -> torch.Tensor:
        """Clean views [B, C, h, w] to pixels, in the decoder's precision, where the states are."""
        return self.prior.decode(x0.to(self.network.device)).to(self.device)

    def in_canvas_units(self, x0: torch.Tensor) -> torch.Tensor:
        """Clean views [B, C, h, w] in the canvas's units; what the decoder puts beyond white and black is no pixel."""
        return self.decode(x0).to(self.dtype).clamp(-1.0, 1.0) if self.in_pixels else x0
