"""SyncVC (Lee 2026): views are kept in agreement by controls that are optimised at every step, at test time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from .. import ops
from ..canvases.base import Canvas, Neighbours
from ..diffusion import is_vanishing
from ..errors import check_choice, check_int, check_number, shown
from ..run import Address, Run
from ..scheduling import Order, Work
from .base import Method
from .coupling import Rule, coupling_table

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
    noise = "read"

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
        coupling: Rule | None = None,
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
        """Build the run's neighbours and coupling coefficients; refuse what does not exist at a = 0."""
        table = run.table
        if self.kl_scheme == "ddim" and is_vanishing(table.a):
            raise ValueError(
                "kl_scheme='ddim' divides by a_t, which is 0 at this schedule's first time: use kl_scheme='none'."
            )
        eps_pull, step_pull = coupling_table(table, self.inv_lambda, self.coupling)
        kl = torch.full_like(table.a, self.kl_weight)
        if self.kl_scheme == "ddim":
            kl = kl * (table.direction - table.a_next * table.b / table.a) ** 2
        return _Plan(run.canvas.neighbours(run.order), eps_pull, step_pull, kl)

    def advance(self, run: Run, work: Work) -> None:
        """Optimise the batch's controls, then take the coupled step from the controlled views."""
        plan, x = run.prepared, run.states(work)
        steps = torch.tensor([k for _, k in work], device=run.device)
        address = run.address(work, plan.neighbours)
        controlled = [n for n, (i, _) in enumerate(work) if run.sources[i] or self.rewards]
        if controlled and self.iterations:
            rows = torch.tensor(controlled, device=run.device)
            some = [work[n] for n in controlled]
            x = x.index_copy(0, rows, self._optimise(run, some, x[rows], address.rows(rows), steps[rows]))
        with torch.no_grad():
            prediction = run.predict(x, work)
        x_next = run.step(prediction, work, plan.step_pull[steps], x, address)
        run.advance(work, x_next, prediction.x0)

    def compose(self, run: Run, views: torch.Tensor) -> torch.Tensor:
        """The final canvas, painted in work order or merged."""
        if self.composite == "merge":
            return run.canvas.merge(views)
        return run.canvas.composite(views, run.order)

    def _optimise(
        self, run: Run, work: Work, start: torch.Tensor, address: Address, steps: torch.Tensor
    ) -> torch.Tensor:
        """K iterations of Adam from views ``start`` [B, C, h, w]; returns the controlled views x~."""
        plan, (place, index, mask, period) = run.prepared, address
        guidance = start.new_full((len(work),), run.guidance_scale)
        a, b = run.at("a", work), run.at("b", work)
        control, first, second = (torch.zeros_like(start) for _ in range(3))
        x, eps_free = start, start
        for iteration in range(self.iterations):
            at = run.evaluate(x, work)
            if iteration == 0:
                # u = 0: this evaluation is the prior's own prediction, and is never computed twice.
                eps_free = at.eps
            _, overlap_gradient = ops.overlap_loss(at.x0, run.pool_x0, place, index, mask, period)
            _, cotangent, direct, peak = ops.control_grad(
                x,
                at.eps,
                eps_free,
                control if self.control_strength == 1.0 or not self.control_cost else self.control_strength * control,
                overlap_gradient,
                self._reward_gradient(run, work, at.x0) if self.rewards else None,
                run.pool_x,
                place,
                index,
                mask,
                plan.eps_pull[steps],
                a,
                b,
                guidance,
                plan.kl[steps],
                self.reward_weight,
                self.control_cost,
                period,
                at.kind,
                at.guided,
            )
            vjp, scale = run.pullback(at, cotangent, peak)
            x = ops.control_update(
                control,
                first,
                second,
                vjp,
                scale,
                direct,
                start,
                iteration,
                self.lr[iteration],
                self.control_strength,
            )
        # A gradient that is not finite leaves its mark on the control for good, so one look after the loop is enough:
        # the host must not wait inside it.
        finite = torch.isfinite(control).flatten(1).all(1)
        if not bool(finite.all()):
            view, step = work[int((~finite).nonzero()[0, 0])]
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
    """What a run's steps and views need: who reads whom, and per-step coefficients [T]."""

    neighbours: Neighbours
    eps_pull: torch.Tensor
    step_pull: torch.Tensor
    kl: torch.Tensor
