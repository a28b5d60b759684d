"""SyncVC (Lee 2026): views are kept in agreement by controls that are optimised at every step, at test time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from .. import ops
from ..canvases.base import Canvas, Neighbours
from ..diffusion import is_vanishing, stable_coupling
from ..errors import check_choice, check_int, check_number, shown
from ..ops.shapes import per_sample
from ..run import Run
from ..scheduling import Order, Work
from .base import Method

Reward = Callable[[torch.Tensor, Sequence[torch.Tensor], int], torch.Tensor]
LearningRate = float | Sequence[float] | Callable[[int], float]


class SyncVC(Method):
    """Synchronisation by variational control (definition: DESIGN.md, section 4).

    At each time t, view i gets a control u, so that ``x~ = x + gamma u``, found by K steps of Adam from u = 0 on

    ``w |M (x0(x~) - T x0')|^2 - rewards + kappa |eps~(x~) - eps(x)|^2 + c |gamma u|^2``

    (sums over a view), where ``T x0'`` is what the earlier views of the same t, at their optimised controls, show at
    the view's cells, M is the area that they cover, and ``eps~ = eps(x~) + M (x~ - T x') (1/lambda)(t/T_max) / b_t`` is
    the prediction coupled to their noisy states x'. The view then steps with eps~ from x~. A view spends K + 1
    evaluations and K gradients a step; the first view spends one evaluation.

    Args:
        iterations: K. 0 leaves the coupling alone, which is SyncSDE's rule.
        lr: Adam's step size: a number, K numbers, or a function of the iteration (from 0).
        reward_weight: w, of the overlap. Adam does not see the loss's scale, so only its ratio to the others matters.
        kl_weight: kappa, what deviating from the prior costs.
        control_strength: gamma. A cell moves by at most about ``K lr gamma`` a step.
        inv_lambda: 1/lambda, strength of the coupling; 0 switches it off.
        control_cost: c, what the control's own size costs.
        kl_scheme: ``"none"`` (as published), or ``"ddim"``, which scales kappa by the square of the step's own
            coefficient of eps, ``(sqrt(b_s^2 - sigma^2) - a_s b_t/a_t)^2``.
        rewards: functions ``reward(x0_i [C, h, w], earlier: list of [C, h, w], i) -> scalar`` to maximise beside the
            overlap, differentiable in ``x0_i``. With rewards the first view gets a control as well.
        composite: the final canvas: ``"over"`` paints later views over earlier ones, ``"merge"`` averages them.
        coupling: ``"published"``, whose total pull depends on the number of steps and can overshoot with few, or
            ``"stable"``: the same total pull at any number of steps, never above 1 a step. None takes the published
            one where it exists and the stable one on flow models, which start at a = 0.
        view_order: the views' indices in the order in which they are worked, 0 to N - 1 if None.
    """

    orders: ClassVar[tuple[Order, ...]] = ("wavefront", "sequential")

    def __init__(
        self,
        iterations: int = 5,
        lr: LearningRate = 0.02,
        reward_weight: float = 1.0,
        kl_weight: float = 1.0,
        control_strength: float = 1.0,
        inv_lambda: float = 5.0,
        control_cost: float = 0.0,
        kl_scheme: Literal["none", "ddim"] = "none",
        rewards: Sequence[Reward] | None = None,
        composite: Literal["over", "merge"] = "over",
        coupling: Literal["published", "stable"] | None = None,
        view_order: Sequence[int] | None = None,
    ) -> None:
        self.iterations = check_int("iterations", iterations, minimum=0)
        self.lr = self._rates(lr)
        self.reward_weight = check_number("reward_weight", reward_weight, minimum=0.0)
        self.kl_weight = check_number("kl_weight", kl_weight, minimum=0.0)
        self.control_strength = check_number("control_strength", control_strength, minimum=0.0)
        self.inv_lambda = check_number("inv_lambda", inv_lambda, minimum=0.0)
        self.control_cost = check_number("control_cost", control_cost, minimum=0.0)
        self.kl_scheme = check_choice("kl_scheme", kl_scheme, ("none", "ddim"))
        if not isinstance(rewards, (list, tuple, type(None))) or not all(callable(r) for r in rewards or ()):
            raise TypeError(
                f"rewards must be a list of functions reward(x0, earlier, i) -> scalar, got {shown(rewards)}."
            )
        self.rewards = tuple(rewards or ())
        self.composite = check_choice("composite", composite, ("over", "merge"))
        self.coupling = check_choice("coupling", coupling, (None, "published", "stable"))
        if not isinstance(view_order, (Sequence, type(None))):
            raise TypeError(f"view_order must be a list of the views' indices, got {shown(view_order)}.")
        self._view_order = None if view_order is None else [check_int("view_order", i, minimum=0) for i in view_order]

    def _rates(self, lr: LearningRate) -> list[float]:
        """Adam's step size at each iteration, checked."""
        if callable(lr):
            lr = [lr(iteration) for iteration in range(self.iterations)]
        if isinstance(lr, (list, tuple)):
            if len(lr) != self.iterations:
                raise ValueError(f"lr must be one number or {self.iterations} (one an iteration), got {len(lr)}.")
            return [check_number("lr", rate, minimum=0.0) for rate in lr]
        return [check_number("lr", lr, minimum=0.0)] * self.iterations

    def view_order(self, canvas: Canvas) -> list[int]:
        """The given order, checked to name every view once."""
        if self._view_order is None:
            return super().view_order(canvas)
        if sorted(self._view_order) != list(range(canvas.num_views)):
            raise ValueError(
                f"view_order must name each of the canvas's {canvas.num_views} views once, got {self._view_order}."
            )
        return list(self._view_order)

    def sources(self, canvas: Canvas, order: Sequence[int]) -> Sequence[Sequence[int]]:
        """The views that a view overlaps; all earlier ones where rewards may look at any."""
        if self.rewards:
            position = {view: n for n, view in enumerate(order)}
            return [tuple(order[: position[i]]) for i in range(canvas.num_views)]
        return canvas.neighbours(order).sources

    def begin(self, run: Run) -> _Plan:
        """Build the run's masks and coupling coefficients; refuse what does not exist at a = 0."""
        table = run.table
        vanishing = is_vanishing(table.a)
        rule = self.coupling or ("stable" if vanishing else "published")
        if vanishing and rule == "published" and self.inv_lambda > 0:
            raise ValueError(
                "coupling='published' divides by a_t, which is 0 at this schedule's first time: use coupling='stable'."
            )
        if vanishing and self.kl_scheme == "ddim":
            raise ValueError(
                "kl_scheme='ddim' divides by a_t, which is 0 at this schedule's first time: use kl_scheme='none'."
            )
        # In step form the coupling is x_s -= g M (x~ - y); in eps it adds (c / b) M (x~ - y), with g = ratio c.
        ratio = table.a_next / table.a - table.direction / table.b
        if rule == "published":
            eps_pull = self.inv_lambda * table.progress
            step_pull = ratio * eps_pull if self.inv_lambda > 0 else torch.zeros_like(ratio)
        else:
            step_pull = stable_coupling(self.inv_lambda, table.pull)
            # 0 / 0 where a step does not move (t = 0 with set_alpha_to_one=False).
            eps_pull = torch.where(step_pull > 0, step_pull / ratio, torch.zeros_like(ratio))
        kl = torch.full_like(ratio, self.kl_weight)
        if self.kl_scheme == "ddim":
            kl = kl * (table.direction - table.a_next * table.b / table.a) ** 2
        neighbours = run.canvas.neighbours(run.order)
        masks = torch.stack([neighbours.mask(i) for i in range(run.canvas.num_views)]).to(run.device, run.dtype)
        return _Plan(neighbours, masks, eps_pull / table.b, step_pull, kl)

    def advance(self, run: Run, work: Work) -> None:
        """Optimise the batch's controls, then take the coupled step from the controlled views."""
        plan, x = run.prepared, run.states(work)
        views = torch.tensor([i for i, _ in work], device=run.device)
        steps = torch.tensor([k for _, k in work], device=run.device)
        batch = _Batch(
            work=work,
            x=x,
            target_x=plan.targets(work, x, run.x),
            target_x0=plan.targets(work, x, run.x0),
            mask=plan.masks[views],
            eps_pull=plan.eps_pull[steps],
            kl=plan.kl[steps],
        )
        controlled = [n for n, (i, _) in enumerate(work) if run.sources[i] or self.rewards]
        if controlled and self.iterations:
            rows = torch.tensor(controlled, device=run.device)
            x = x.index_copy(0, rows, self._optimise(run, batch.rows(controlled)))
        with torch.no_grad():
            prediction = run.predict(x, work)
        pull = per_sample(plan.step_pull[steps], x) * batch.mask
        run.advance(work, run.step(prediction, work) - pull * (x - batch.target_x), prediction.x0)

    def compose(self, run: Run, views: torch.Tensor) -> torch.Tensor:
        """The final canvas, painted in work order or merged."""
        if self.composite == "merge":
            return run.canvas.merge(views)
        return run.canvas.composite(views, run.order)

    def _optimise(self, run: Run, batch: _Batch) -> torch.Tensor:
        """K iterations of Adam; returns the controlled views x~."""
        control, first, second = (torch.zeros_like(batch.x) for _ in range(3))
        x, eps_free = batch.x, batch.x
        finite = torch.ones(len(batch.work), dtype=torch.bool, device=run.device)
        for iteration in range(self.iterations):
            leaf = x.detach().requires_grad_()
            with torch.enable_grad():
                prediction = run.predict(leaf, batch.work)
            x0, eps = prediction.x0.detach(), prediction.eps.detach()
            if iteration == 0:
                # u = 0: this evaluation is the prior's own prediction, and is never computed twice.
                eps_free = eps
            _, g_x0, g_eps, direct = ops.control_grad(
                leaf.detach(),
                x0,
                eps,
                eps_free,
                self.control_strength * control,
                batch.target_x0,
                batch.target_x,
                batch.mask,
                batch.eps_pull,
                self.reward_weight,
                batch.kl,
                self.control_cost,
            )
            if self.rewards:
                g_x0 = g_x0 - self._reward_gradient(run, batch.work, x0)
            gradient = run.pullback(leaf, prediction, g_x0, g_eps) + direct
            finite &= torch.isfinite(gradient).flatten(1).all(1)
            lr = self.lr[iteration]
            x = ops.control_update(control, first, second, gradient, batch.x, iteration, lr, self.control_strength)
        # One synchronisation a batch, after the loop: the host must not wait inside it.
        if not bool(finite.all()):
            view, step = batch.work[int((~finite).nonzero()[0, 0])]
            raise FloatingPointError(
                f"the control's gradient is not finite at view {view}, step {step}: lower reward_weight or lr, or run "
                "the prior in float32 or bfloat16."
            )
        return x

    def _reward_gradient(self, run: Run, work: Work, x0: torch.Tensor) -> torch.Tensor:
        """Gradient of the sum of rewards on the clean estimates [B, C, h, w]."""
        gradients = []
        for (view, step), clean in zip(work, x0, strict=True):
            leaf = clean.detach().requires_grad_()
            earlier = [run.x0(j, step) for j in run.sources[view]]
            with torch.enable_grad():
                values = [torch.as_tensor(reward(leaf, earlier, view)).reshape(()) for reward in self.rewards]
            # A reward may be constant for some views, e.g. the first one when it compares with earlier ones.
            values = [value for value in values if value.requires_grad]
            gradients.append(torch.autograd.grad(values, leaf)[0] if values else torch.zeros_like(leaf))
        return torch.stack(gradients)


@dataclass(frozen=True)
class _Plan:
    """What a run's steps and views need: per-step coefficients [T] and per-view masks [N, 1, h, w]."""

    neighbours: Neighbours
    masks: torch.Tensor
    eps_pull: torch.Tensor
    step_pull: torch.Tensor
    kl: torch.Tensor

    def targets(self, work: Work, x: torch.Tensor, read: Callable[[int, int], torch.Tensor]) -> torch.Tensor:
        """What neighbours show in each item's cells [B, C, h, w]; ``read(view, step)`` gives a tensor [C, h, w]."""
        return torch.stack(
            [
                self.neighbours.target(i, lambda j, k=k: read(j, k), like)  # type: ignore[misc]
                for (i, k), like in zip(work, x, strict=True)
            ]
        )


@dataclass(frozen=True)
class _Batch:
    """One batch of work with its fixed quantities; tensors are [B, ...]."""

    work: Work
    x: torch.Tensor
    target_x: torch.Tensor
    target_x0: torch.Tensor
    mask: torch.Tensor
    eps_pull: torch.Tensor
    kl: torch.Tensor

    def rows(self, rows: list[int]) -> _Batch:
        """The batch's items ``rows``."""
        if len(rows) == len(self.work):
            return self
        pick = torch.tensor(rows, device=self.x.device)
        tensors = (self.x, self.target_x, self.target_x0, self.mask, self.eps_pull, self.kl)
        return _Batch([self.work[n] for n in rows], *(t[pick] for t in tensors))
