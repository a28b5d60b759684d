"""SyncVC (Lee 2026): views are kept in agreement by controls that are optimised at every step, at test time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..canvases.base import LinearCanvas
from ..errors import check_choice, check_int, check_number, shown
from ..rewards.base import Reward, RewardFunction, as_reward
from ..run import Run
from .base import Method
from .control_schedule import ControlCost, LearningRate, checked_cost, checked_rates
from .coupling import Rule
from .syncvc_run import TIMES, BoundSyncVC

# Points of the curve of speed against coherence that `python -m bench.tradeoff` measures.
PRESETS: dict[str, dict[str, Any]] = {
    "quality": {},
    "balanced": {"iterations": 1},
    "fast": {"iterations": 1, "control_window": (1000, 500)},
}


@dataclass(eq=False)
class SyncVC(Method):
    """Synchronisation by variational control (docs/mathematics.md, "SyncVC").

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
        lr: Adam's step size: a number, K numbers, or a function ``lr(iteration)`` or ``lr(step, iteration)``, both from
            0.
        reward_weight: w, of the overlap. Adam does not see the loss's scale, so only its ratio to the others matters.
        kl_weight: kappa, what deviating from the prior costs.
        control_strength: gamma. A cell moves by at most about ``K lr gamma`` a step.
        inv_lambda: 1/lambda, strength of the coupling; 0 switches it off.
        control_cost: c, what the control's own size costs: a number, or a function ``control_cost(step)``.
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

    iterations: int = 5
    lr: LearningRate = 0.02
    reward_weight: float = 1.0
    kl_weight: float = 1.0
    control_strength: float = 1.0
    inv_lambda: float = 5.0
    control_cost: ControlCost = 0.0
    kl_scheme: Literal["none", "ddim"] = "none"
    rewards: Sequence[Reward | RewardFunction] | None = None
    composite: Literal["over", "merge"] = "over"
    coupling: Rule | None = None
    view_order: Sequence[int] | None = None
    search: int | None = None
    search_scale: float = 0.3
    control_window: tuple[float, float] | None = None
    jacobian: Literal["full", "identity"] = "full"
    guidance_gradient: Literal["both", "cond"] = "both"
    tolerance: float | None = None
    feature_reuse: bool = False

    orders = ("wavefront", "sequential")
    noise_use = "read"

    def __post_init__(self) -> None:
        self.iterations = check_int("iterations", self.iterations, minimum=0)
        self.lr = checked_rates(self.lr, self.iterations)
        self.control_cost = checked_cost(self.control_cost)
        for name in ("reward_weight", "kl_weight", "control_strength", "inv_lambda"):
            setattr(self, name, check_number(name, getattr(self, name), minimum=0.0))
        check_choice("kl_scheme", self.kl_scheme, ("none", "ddim"))
        rewards = self.rewards
        if not isinstance(rewards, (list, tuple, type(None))) or not all(callable(r) for r in rewards or ()):
            raise TypeError(
                f"rewards must be a list of functions reward(x0, earlier, i) -> scalar, got {shown(rewards)}."
            )
        self.rewards = tuple(rewards or ())
        self.search = None if self.search is None else check_int("search", self.search, minimum=2)
        self.search_scale = check_number("search_scale", self.search_scale, minimum=0.0, maximum=1.0)
        for reward in self.rewards:
            if self.search is None and not as_reward(reward).differentiable:
                raise ValueError(f"{shown(reward)} has no gradient: choose by it with SyncVC(search=n), e.g. search=4.")
        self.control_window = None if self.control_window is None else _checked_window(self.control_window)
        check_choice("jacobian", self.jacobian, ("full", "identity"))
        check_choice("guidance_gradient", self.guidance_gradient, ("both", "cond"))
        if self.tolerance is not None:
            self.tolerance = check_number("tolerance", self.tolerance, minimum=0.0, maximum=1.0)
            if self.rewards:
                raise ValueError(
                    "tolerance looks at the loss of overlap and prior, which rewards are not part of: use "
                    "tolerance=None with rewards."
                )
        if not isinstance(self.feature_reuse, bool):
            raise TypeError(f"feature_reuse must be True or False, got {shown(self.feature_reuse)}.")
        check_choice("composite", self.composite, ("over", "merge"))
        check_choice("coupling", self.coupling, (None, "published", "stable"))
        if not isinstance(self.view_order, (Sequence, type(None))):
            raise TypeError(f"view_order must be a list of the views' indices, got {shown(self.view_order)}.")
        if self.view_order is not None:
            self.view_order = [check_int("view_order", i, minimum=0) for i in self.view_order]

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

    def order_of_views(self, canvas: LinearCanvas) -> list[int]:
        """The given order, checked to name every view once."""
        if self.view_order is None:
            return super().order_of_views(canvas)
        if sorted(self.view_order) != list(range(canvas.num_views)):
            raise ValueError(
                f"view_order must name each of the canvas's {canvas.num_views} views once, got {self.view_order}."
            )
        return list(self.view_order)

    def sources(self, canvas: LinearCanvas, order: Sequence[int]) -> Sequence[Sequence[int]]:
        """The views that a view overlaps; all earlier ones where a reward looks at them."""
        if any(as_reward(reward).reads_earlier for reward in self.rewards or ()):
            position = {view: n for n, view in enumerate(order)}
            return [tuple(order[: position[i]]) for i in range(canvas.num_views)]
        return canvas.neighbours(order).sources

    def bind(self, run: Run) -> BoundSyncVC:
        """Refuses what divides by a_t where that is 0, and reuse of features that the prior does not have."""
        return BoundSyncVC(self, run)


def _checked_window(value: tuple[float, float]) -> tuple[float, float]:
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise TypeError(f"control_window must be (high, low), two times up to {TIMES}, got {shown(value)}.")
    high, low = (check_number("control_window", t, minimum=0.0, maximum=TIMES) for t in value)
    if high <= low:
        raise ValueError(f"control_window must be (high, low) with high above low, got {shown(value)}.")
    return high, low
