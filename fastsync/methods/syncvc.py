"""SyncVC (Lee 2026): views are kept in agreement by controls that are optimised at every step, at test time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from .. import ops
from ..canvases.base import LinearCanvas, Neighbours
from ..diffusion import is_vanishing
from ..errors import check_choice, check_int, check_number, shown
from ..priors.base import Prediction
from ..query import Query, Through
from ..rewards.base import Reward, RewardFunction, as_reward
from ..rewards.panel import Panel
from ..run import Address, Run
from ..scheduling import Order, Work
from .base import Method
from .coupling import Rule, coupling_table

TIMES = 1000  # the scale of `control_window`
# Points of the curve of speed against coherence that `python -m bench.tradeoff` measures.
PRESETS: dict[str, dict[str, Any]] = {
    "quality": {},
    "balanced": {"iterations": 1},
    "fast": {"iterations": 1, "control_window": (1000, 500)},
}
LearningRate = float | Sequence[float] | Callable[[int], float]


class SyncVC(Method):
    """Synchronisation by variational control (definition: DESIGN.md, section 4).

    At each time t, view i gets a control u, so that ``x~ = x + gamma u``, found by K steps of Adam from u = 0 on

    ``w |M (x0(x~) - T x0')|^2 - rewards + kappa |eps~(x~) - eps(x)|^2 + c |gamma u|^2``

    (sums over a view), where ``T x0'`` is what the earlier views of the same t, at their optimised controls, show at
    the view's cells, M is the area that they cover, and ``eps~ = eps(x~) + M (x~ - T x') (1/lambda)(t/T_max) / b_t`` is
    the prediction coupled to their noisy states x'. The view then steps with eps~ from x~. A view spends K + 1
    evaluations and K gradients a step; the first view spends one evaluation, unless a reward speaks of it.

    With ``search=n`` no gradient is taken, and rewards need none. A view has n candidates at every step: x itself, and
    n - 1 whose noise is drawn anew by a share r, ``x~ = x + b_t ((sqrt(1 - r^2) - 1) eps + r z)``, which are as noisy
    as x is. The one with the least ``w |M (x0(x~) - T x0')|^2 - rewards`` goes on (path-integral control, looking one
    step ahead; noise like the prior's own is no deviation from it, so none is charged). A view spends n evaluations a
    step. ``z`` is a crop of one canvas noise a step and candidate, the same in every order of work.

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
        rewards: what to maximise beside the overlap: rewards of :mod:`fastsync.rewards`, and functions
            ``reward(x0_i [C, h, w], earlier: list of [C, h, w], i) -> scalar``, differentiable in ``x0_i`` unless
            ``search`` is given. The first view gets a control as well where a reward speaks of it (functions do).
        composite: the final canvas: ``"over"`` paints later views over earlier ones, ``"merge"`` averages them.
        coupling: ``"published"``, whose total pull depends on the number of steps and can overshoot with few, or
            ``"stable"``: the same total pull at any number of steps, never above 1 a step. None takes the published
            one where it exists and the stable one on flow models, which start at a = 0.
        view_order: the views' indices in the order in which they are worked, 0 to N - 1 if None.
        search: n, at least 2: choose among candidates in place of the gradient. ``iterations``, ``lr``, ``kl_weight``,
            ``control_strength`` and ``control_cost`` then play no part. None: the gradient.
        search_scale: r, from 0 (all candidates are x) to 1 (noise all new).
        control_window: ``(high, low)``, times on a scale of 1000 between which views get controls; the coupling holds
            at all times. An approximation, as are the four that follow: measured in docs/performance.md. None: always.
        jacobian: ``"full"``, the gradient through the network; or ``"identity"``, which takes the network's velocity
            ``a eps - b x0`` for a constant (exact where views are white noise of unit variance): no backward pass.
        guidance_gradient: ``"both"``, or ``"cond"``, which takes the unconditional half for a constant: half the
            backward pass.
        tolerance: a view whose loss falls in an iteration by less than this share of it gets no further ones. None: all
            get all. Looks at the loss from the host in every iteration, and makes batches of any size.
        feature_reuse: compute the whole network in a control's first iteration only, and its outermost level in the
            further ones; for pipelines with a UNet that is not compiled as a whole.

    Raises:
        TypeError, ValueError: settings out of range; a reward that says it has no gradient, without ``search``.
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
        rewards: Sequence[Reward | RewardFunction] | None = None,
        composite: Literal["over", "merge"] = "over",
        coupling: Rule | None = None,
        view_order: Sequence[int] | None = None,
        search: int | None = None,
        search_scale: float = 0.3,
        control_window: tuple[float, float] | None = None,
        jacobian: Literal["full", "identity"] = "full",
        guidance_gradient: Literal["both", "cond"] = "both",
        tolerance: float | None = None,
        feature_reuse: bool = False,
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
        self.search = None if search is None else check_int("search", search, minimum=2)
        self.search_scale = check_number("search_scale", search_scale, minimum=0.0, maximum=1.0)
        for reward in self.rewards:
            if self.search is None and not as_reward(reward).differentiable:
                raise ValueError(f"{shown(reward)} has no gradient: choose by it with SyncVC(search=n), e.g. search=4.")
        self.control_window = None if control_window is None else _checked_window(control_window)
        self.jacobian = check_choice("jacobian", jacobian, ("full", "identity"))
        self.guidance_gradient = check_choice("guidance_gradient", guidance_gradient, ("both", "cond"))
        self.tolerance = None if tolerance is None else check_number("tolerance", tolerance, minimum=0.0, maximum=1.0)
        if self.tolerance is not None and self.rewards:
            raise ValueError(
                "tolerance looks at the loss of overlap and prior, which rewards are not part of: use tolerance=None "
                "with rewards."
            )
        if not isinstance(feature_reuse, bool):
            raise TypeError(f"feature_reuse must be True or False, got {shown(feature_reuse)}.")
        self.feature_reuse = feature_reuse
        self.composite = check_choice("composite", composite, ("over", "merge"))
        self.coupling = check_choice("coupling", coupling, (None, "published", "stable"))
        if not isinstance(view_order, (Sequence, type(None))):
            raise TypeError(f"view_order must be a list of the views' indices, got {shown(view_order)}.")
        self._view_order = None if view_order is None else [check_int("view_order", i, minimum=0) for i in view_order]

    @classmethod
    def preset(cls, name: str, **settings: Any) -> SyncVC:
        """SyncVC as a preset has it, with your own settings on top.

        Args:
            name: ``"quality"``, the defaults; ``"balanced"`` or ``"fast"``, which leave out what costs least coherence
                for the time that it saves (what and how much: docs/performance.md).
            **settings: the constructor's arguments.

        Raises:
            TypeError, ValueError: another name; settings as in the constructor.
        """
        return cls(**{**PRESETS[check_choice("preset", name, PRESETS)], **settings})

    def _rates(self, lr: LearningRate) -> list[float]:
        """Adam's step size at each iteration, checked."""
        if callable(lr):
            lr = [lr(iteration) for iteration in range(self.iterations)]
        if isinstance(lr, (list, tuple)):
            if len(lr) != self.iterations:
                raise ValueError(f"lr must be one number or {self.iterations} (one an iteration), got {len(lr)}.")
            return [check_number("lr", rate, minimum=0.0) for rate in lr]
        return [check_number("lr", lr, minimum=0.0)] * self.iterations

    def view_order(self, canvas: LinearCanvas) -> list[int]:
        """The given order, checked to name every view once."""
        if self._view_order is None:
            return super().view_order(canvas)
        if sorted(self._view_order) != list(range(canvas.num_views)):
            raise ValueError(
                f"view_order must name each of the canvas's {canvas.num_views} views once, got {self._view_order}."
            )
        return list(self._view_order)

    def sources(self, canvas: LinearCanvas, order: Sequence[int]) -> Sequence[Sequence[int]]:
        """The views that a view overlaps; all earlier ones where a reward looks at them."""
        if any(as_reward(reward).reads_earlier for reward in self.rewards):
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
        rewards = [as_reward(reward) for reward in self.rewards]
        panel = Panel(rewards, run.canvas, run.order, run.sources, run.decode, run.x0)
        if self.feature_reuse:
            run.deep_features()  # refuses early what the prior does not have
        run.candidates = 0 if self.search is None else self.search - 1
        high, low = self.control_window or (math.inf, -math.inf)
        times = table.timesteps.double() * (TIMES / run.prior.schedule.num_train_timesteps)
        steered = ((low <= times) & (times <= high)).tolist()
        return _Plan(run.canvas.neighbours(run.order), eps_pull, step_pull, kl, panel, steered)

    def advance(self, run: Run, work: Work) -> None:
        """Choose the batch's controls, then take the coupled step from the controlled views."""
        plan, x = run.prepared, run.states(work)
        steps, query, address = run.steps_of(work), run.query(work), run.address(work, plan.neighbours)
        controlled = [
            n for n, (i, k) in enumerate(work) if plan.steered[k] and (run.sources[i] or plan.panel.speaks_of(i))
        ]
        rows = run.to_device(torch.tensor(controlled, dtype=torch.long))
        some = [work[n] for n in controlled]
        if controlled and self.iterations and self.search is None:
            x = x.index_copy(
                0, rows, self._optimise(run, some, query.rows(rows), x[rows], address.rows(rows), steps[rows])
            )
        with torch.no_grad():
            prediction = query.predict(x)
        if controlled and self.search is not None:
            best = [t.index_select(0, rows) for t in (x, *prediction)]
            best = self._search(run, some, query.rows(rows), best, address.rows(rows))
            x, *estimates = (t.index_copy(0, rows, u) for t, u in zip((x, *prediction), best, strict=True))
            prediction = Prediction(*estimates)
        x_next = run.step(prediction, work, plan.step_pull[steps], x, address)
        run.advance(work, x_next, prediction.x0)
        plan.panel.done(work)

    def compose(self, run: Run, views: torch.Tensor) -> torch.Tensor:
        """The final canvas, painted in work order or merged."""
        if self.composite == "merge":
            return run.canvas.merge(views)
        return run.canvas.composite(views, run.order)

    def _optimise(
        self, run: Run, work: Work, query: Query, start: torch.Tensor, address: Address, steps: torch.Tensor
    ) -> torch.Tensor:
        """K iterations of Adam from views ``start`` [B, C, h, w]; returns the controlled views x~."""
        plan, everyone, chosen = run.prepared, work, torch.arange(len(work), device=start.device)
        controls = torch.zeros_like(start)
        x, eps_free, result = start, start, start
        control, first, second = (torch.zeros_like(start) for _ in range(3))
        before: torch.Tensor | None = None
        deep = run.deep_features() if self.feature_reuse else None
        eps_pull, kl = plan.eps_pull[steps], plan.kl[steps]
        for iteration in range(self.iterations):
            at = query.evaluate(x, self._through, deep)
            if iteration == 0:
                # u = 0: this evaluation is the prior's own prediction, and is never computed twice.
                eps_free = at.eps
            overlap, overlap_gradient = ops.overlap_loss(at.x0, run.pool_x0, *address)
            place, index, mask, period = address
            loss, cotangent, direct, peak = ops.control_grad(
                x,
                at.eps,
                eps_free,
                control if self.control_strength == 1.0 or not self.control_cost else self.control_strength * control,
                overlap_gradient,
                plan.panel.gradient(work, at.x0) if self.rewards else None,
                run.pool_x,
                place,
                index,
                mask,
                eps_pull,
                query.a,
                query.b,
                query.guidance,
                kl,
                self.reward_weight,
                self.control_cost,
                period,
                at.kind,
                at.guided,
            )
            vjp, scale = query.pullback(at, cotangent, peak)
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
            if self.tolerance is None:
                controls, result = control, x
                continue
            controls[chosen], result = control, result.index_copy(0, chosen, x)
            loss = loss + self.reward_weight * overlap
            if before is not None:
                falling = (before - loss >= self.tolerance * before).nonzero()[:, 0]
                if len(falling) < len(work):
                    if not len(falling):
                        break
                    work, query, chosen = [work[n] for n in falling.tolist()], query.rows(falling), chosen[falling]
                    eps_pull, kl = eps_pull[falling], kl[falling]
                    x, start, eps_free, loss = (t[falling] for t in (x, start, eps_free, loss))
                    control, first, second = (t[falling] for t in (control, first, second))
                    address = address.rows(falling)
                    if deep is not None:
                        deep.select(falling)
            before = loss
        # A gradient that is not finite leaves its mark on the control for good, so one look after the loop is enough:
        # the host must not wait inside it.
        finite = torch.isfinite(controls).flatten(1).all(1)
        if not bool(finite.all()):
            view, step = everyone[int((~finite).nonzero()[0, 0])]
            raise FloatingPointError(
                f"the control's gradient is not finite at view {view}, step {step}: lower reward_weight or lr, or run "
                "the prior in float32 or bfloat16."
            )
        return result

    @property
    def _through(self) -> Through:
        """What of the network the gradient passes through."""
        return "nothing" if self.jacobian == "identity" else self.guidance_gradient

    def _search(
        self, run: Run, work: Work, query: Query, free: list[torch.Tensor], address: Address
    ) -> list[torch.Tensor]:
        """The best candidates and their estimates ``[x~, x0, eps]``, from the uncontrolled ones, [B, C, h, w] each.

        One call of the network a candidate: batches stay as large as ``max_batch`` allows, and only the best is kept.
        """
        start, x0, eps = free
        b = query.b.to(start.dtype)[:, None, None, None]
        kept = math.sqrt(1.0 - self.search_scale**2)
        best, best_score = free, self._score(run, work, x0, address)
        for candidate in range(run.candidates):
            drawn = self.search_scale * run.candidate_noise(work, candidate)
            x = start + b * ((kept - 1.0) * eps + drawn)
            with torch.no_grad():
                prediction = query.predict(x)
            score = self._score(run, work, prediction.x0, address)
            better = score > best_score
            best_score = torch.where(better, score, best_score)
            better = better[:, None, None, None]
            best = [torch.where(better, new, old) for new, old in zip((x, *prediction), best, strict=True)]
        return best

    def _score(self, run: Run, work: Work, x0: torch.Tensor, address: Address) -> torch.Tensor:
        """Rewards and the overlap's [B] at clean estimates [B, C, h, w]."""
        overlap, _ = ops.overlap_loss(x0, run.pool_x0, *address)
        score = -self.reward_weight * overlap
        return score + run.prepared.panel.scores(work, x0) if self.rewards else score


def _checked_window(value: tuple[float, float]) -> tuple[float, float]:
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise TypeError(f"control_window must be (high, low), two times up to {TIMES}, got {shown(value)}.")
    high, low = (check_number("control_window", t, minimum=0.0, maximum=TIMES) for t in value)
    if high <= low:
        raise ValueError(f"control_window must be (high, low) with high above low, got {shown(value)}.")
    return high, low


@dataclass(frozen=True)
class _Plan:
    """What a run's steps and views need: who reads whom, per-step coefficients [T], and the rewards."""

    neighbours: Neighbours
    eps_pull: torch.Tensor
    step_pull: torch.Tensor
    kl: torch.Tensor
    panel: Panel
    steered: list[bool]
