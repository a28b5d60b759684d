"""SyncDiffusion (Lee 2023): windows are pulled towards the looks of an anchor window, then MultiDiffusion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from ..canvases.base import LinearCanvas
from ..errors import check_int, check_number, shown
from ..rewards.base import Reward
from ..rewards.perceptual import Perceptual
from ..run import Run
from ..scheduling import Order, Work
from .multidiffusion import MultiDiffusion

Distance = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Decode = Callable[[torch.Tensor], torch.Tensor]


class SyncDiffusion(MultiDiffusion):
    """Before each step ``x <- x - w_k grad_x L(D(x0(x)), D(x0(anchor)))`` with ``w_k = w 0.95^k``, then MultiDiffusion.

    The anchor is the view in the middle; its prediction is made once a step, without gradient. The gradient is the raw
    one, through guidance, decoder and the decoder's clamp. Every other view spends two evaluations and one gradient at
    a step that moves it, the anchor one evaluation.

    Args:
        weight: w; 0 is MultiDiffusion.
        decay: of the weight, from step to step.
        until: only the first ``until`` steps move views; all if None.
        every: only every so many steps move views.
        perceptual: ``L(a, b) -> scalar`` of two pictures [1, 3, H, W] in [-1, 1], differentiable in a, such as
            ``lpips.LPIPS()``; or a reward of pictures (:mod:`fastsync.rewards`): L is then minus the reward, with the
            anchor for the earlier view. None: ``fastsync.rewards.Perceptual()``.
        decode: clean views [B, C, h, w] to pictures [B, 3, H, W]; the prior's own decoder if None.
    """

    orders: ClassVar[tuple[Order, ...]] = ("batched", "sequential")

    def __init__(
        self,
        weight: float = 20.0,
        decay: float = 0.95,
        until: int | None = None,
        every: int = 1,
        perceptual: Distance | Reward | None = None,
        decode: Decode | None = None,
    ) -> None:
        super().__init__("uniform")
        self.weight = check_number("weight", weight, minimum=0.0)
        self.decay = check_number("decay", decay, minimum=0.0)
        self.until = None if until is None else check_int("until", until, minimum=0)
        self.every = check_int("every", every)
        for name, function in (("perceptual", perceptual), ("decode", decode)):
            if function is not None and not callable(function):
                raise TypeError(f"{name} must be callable, got {shown(function)}.")
        if isinstance(perceptual, Reward) and not (perceptual.pixels and perceptual.differentiable):
            raise ValueError(
                f"perceptual must judge pictures, with a gradient, and {perceptual.name} does not: use e.g. "
                "fastsync.rewards.Perceptual()."
            )
        # Without weight nothing is asked, and no network need be loaded.
        self.perceptual = Perceptual() if perceptual is None and self.weight > 0 else perceptual
        self.decode = decode

    def view_order(self, canvas: LinearCanvas) -> list[int]:
        """The anchor first."""
        anchor = canvas.num_views // 2
        return [anchor, *(i for i in range(canvas.num_views) if i != anchor)]

    def sources(self, canvas: LinearCanvas, order: Sequence[int]) -> Sequence[Sequence[int]]:
        """Everyone reads the anchor."""
        return [() if i == order[0] else (order[0],) for i in range(canvas.num_views)]

    def begin(self, run: Run) -> _Plan:
        """Tell a reward of the run; keep the anchor's picture."""
        reward = self.perceptual
        return _Plan(reward.begin(run.canvas, run.order) if isinstance(reward, Reward) else None)

    def advance(self, run: Run, work: Work) -> None:
        """Move the batch's views towards the anchor's looks, then take them one step on."""
        step = work[0][1]
        x = run.states(work)
        if self._moves(step) and run.sources[work[0][0]]:
            x = x - self.weight * self.decay**step * self._gradient(run, work, x)
        prediction = run.predict(x, work)
        run.advance(work, run.step(prediction, work), prediction.x0)

    def _moves(self, step: int) -> bool:
        return self.weight > 0 and step % self.every == 0 and (self.until is None or step < self.until)

    def _gradient(self, run: Run, work: Work, x: torch.Tensor) -> torch.Tensor:
        """Of the sum of the views' distances to the anchor's picture, on their noisy states [B, C, h, w]."""
        decode, step, plan = self.decode or run.decode, work[0][1], run.prepared
        if step not in plan.anchor:
            plan.anchor.clear()
            plan.anchor[step] = decode(run.x0(run.order[0], step)[None])
        anchor = plan.anchor[step]
        leaf = x.detach().requires_grad_()
        with torch.enable_grad():
            pictures = decode(run.predict(leaf, work).x0)
            distances = [self._distance(plan.reward, p, anchor, i) for p, (i, _) in zip(pictures, work, strict=True)]
            total = torch.stack(distances).sum()
        run.stats.gradients += len(work) * (1 if run.uncond is None else 2)
        gradient: torch.Tensor = torch.autograd.grad(total, leaf)[0]
        finite = torch.isfinite(gradient).flatten(1).all(1)
        if not bool(finite.all()):
            view, step = work[int((~finite).nonzero()[0, 0])]
            raise FloatingPointError(
                f"the perceptual gradient is not finite at view {view}, step {step}: lower weight, or run the prior in "
                "float32 or bfloat16."
            )
        return gradient

    def _distance(self, reward: Reward | None, picture: torch.Tensor, anchor: torch.Tensor, view: int) -> torch.Tensor:
        """L of a view's picture [3, H, W] and the anchor's [1, 3, H, W]."""
        if reward is not None:
            return -torch.as_tensor(reward(picture * 0.5 + 0.5, [anchor[0] * 0.5 + 0.5], view)).reshape(())
        assert self.perceptual is not None and not isinstance(self.perceptual, Reward)
        return torch.as_tensor(self.perceptual(picture[None], anchor)).reshape(())


@dataclass(frozen=True)
class _Plan:
    """The reward that stands for the distance, if one does, and the anchor's picture by step: the one under way."""

    reward: Reward | None
    anchor: dict[int, Any] = field(default_factory=dict)
