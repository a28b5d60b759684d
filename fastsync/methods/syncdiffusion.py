"""SyncDiffusion (Lee 2023): windows are pulled towards the looks of an anchor window, then MultiDiffusion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ..canvases.base import LinearCanvas
from ..errors import check_int, check_number, shown
from ..rewards.base import Reward
from ..rewards.perceptual import Perceptual
from ..run import Estimates, Run
from ..scheduling import Work
from .base import Method
from .multidiffusion import MergedStates

Distance = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Decode = Callable[[torch.Tensor], torch.Tensor]


@dataclass(eq=False)
class SyncDiffusion(Method):
    """Before each step ``x <- x - w_k grad_x L(D(x0(x)), D(x0(anchor)))`` with ``w_k = w 0.95^k``, then MultiDiffusion.

    The anchor is the view in the middle; its prediction is made once a step, without gradient. The gradient is the raw
    one, through guidance, decoder and the decoder's clamp. Every other view spends two evaluations and one gradient at
    a step that moves it, the anchor one evaluation.

    Args:
        weight: w; 0 is MultiDiffusion.
        decay: of the weight, from step to step.
        until: only the first ``until`` steps move views; all if None.
        every: only steps ``every``, ``2 every``, ... move views, counted from 1.
        perceptual: ``L(a, b) -> scalar`` of two pictures [1, 3, H, W] in [-1, 1], differentiable in a, such as
            ``lpips.LPIPS()``; or a reward of pictures (:mod:`fastsync.rewards`): L is then minus the reward, with the
            anchor for the earlier view. None: ``fastsync.rewards.Perceptual()``.
        decode: clean views [B, C, h, w] to pictures [B, 3, H, W]; the prior's own decoder if None.
    """

    weight: float = 20.0
    decay: float = 0.95
    until: int | None = None
    every: int = 1
    perceptual: Distance | Reward | None = None
    decode: Decode | None = None

    joins = True
    noise_use = "merged"

    def __post_init__(self) -> None:
        self.weight = check_number("weight", self.weight, minimum=0.0)
        self.decay = check_number("decay", self.decay, minimum=0.0)
        self.until = None if self.until is None else check_int("until", self.until, minimum=0)
        self.every = check_int("every", self.every)
        perceptual = self.perceptual
        for name, function in (("perceptual", perceptual), ("decode", self.decode)):
            if function is not None and not callable(function):
                raise TypeError(f"{name} must be callable, got {shown(function)}.")
        if isinstance(perceptual, Reward) and not (perceptual.pixels and perceptual.differentiable):
            raise ValueError(
                f"perceptual must judge pictures, with a gradient, and {perceptual.name} does not: use e.g. "
                "fastsync.rewards.Perceptual()."
            )
        # Without weight nothing is asked, and no network need be loaded.
        if perceptual is None and self.weight > 0:
            self.perceptual = Perceptual()

    def order_of_views(self, canvas: LinearCanvas) -> list[int]:
        """The anchor first."""
        anchor = canvas.num_views // 2
        return [anchor, *(i for i in range(canvas.num_views) if i != anchor)]

    def sources(self, canvas: LinearCanvas, order: Sequence[int]) -> Sequence[Sequence[int]]:
        """Everyone reads the anchor."""
        return [() if i == order[0] else (order[0],) for i in range(canvas.num_views)]

    def bind(self, run: Run) -> _BoundSyncDiffusion:
        """Tells a reward of the run."""
        return _BoundSyncDiffusion(self, run)


class _BoundSyncDiffusion(MergedStates[SyncDiffusion]):
    def __init__(self, settings: SyncDiffusion, run: Run) -> None:
        super().__init__(settings, run)
        reward = settings.perceptual
        self._reward = reward.begin(run.canvas, run.order) if isinstance(reward, Reward) else None
        self._anchor_step, self._anchor = -1, torch.empty(0)

    def estimate(self, work: Work) -> Estimates:
        """Move the batch's views towards the anchor's looks, then ask the prior."""
        run, settings, step = self.run, self.settings, work[0][1]
        x = run.states.before(work)
        moved = self._moves(step) and bool(run.sources[work[0][0]])
        if moved:
            x = x - settings.weight * settings.decay**step * self._gradient(work, x)
        return Estimates(x, run.network.predict(x, work), moved=[moved] * len(work))

    def _moves(self, step: int) -> bool:
        settings = self.settings
        due = (step + 1) % settings.every == 0
        return settings.weight > 0 and due and (settings.until is None or step < settings.until)

    def _gradient(self, work: Work, x: torch.Tensor) -> torch.Tensor:
        """Of the sum of the views' distances to the anchor's picture, on their noisy states [B, C, h, w]."""
        run, decode, step = self.run, self.settings.decode or self.run.decode, work[0][1]
        if step != self._anchor_step:
            self._anchor = decode(run.states.estimate(run.order[0], step)[None])
            self._anchor_step = step
        leaf = x.detach().requires_grad_()
        query = run.network.query(work)
        with torch.enable_grad():
            pictures = decode(query.predict(leaf).x0)
            total = torch.stack([self._distance(p, i) for p, (i, _) in zip(pictures, work, strict=True)]).sum()
        run.stats.gradients += len(work) * query.halves
        gradient: torch.Tensor = torch.autograd.grad(total, leaf)[0]
        finite = torch.isfinite(gradient).flatten(1).all(1)
        if not bool(finite.all()):
            view, step = work[int((~finite).nonzero()[0, 0])]
            raise FloatingPointError(
                f"the perceptual gradient is not finite at view {view}, step {step}: lower weight, or run the prior in "
                "float32 or bfloat16."
            )
        return gradient

    def _distance(self, picture: torch.Tensor, view: int) -> torch.Tensor:
        """L of a view's picture [3, H, W] and the anchor's [1, 3, H, W]."""
        anchor, perceptual = self._anchor, self.settings.perceptual
        if self._reward is not None:
            return -torch.as_tensor(self._reward(picture * 0.5 + 0.5, [anchor[0] * 0.5 + 0.5], view)).reshape(())
        assert perceptual is not None and not isinstance(perceptual, Reward)
        return torch.as_tensor(perceptual(picture[None], anchor)).reshape(())
