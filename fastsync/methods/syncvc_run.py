"""SyncVC at work in one run: controls chosen by gradient or by search, then the coupled step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from .. import ops
from ..diffusion import is_vanishing
from ..priors.base import Prediction
from ..rewards.base import as_reward
from ..rewards.reward_sum import RewardSum
from ..run import Address, Estimates, Query, Run, Through
from ..scheduling import Work
from ..transfer import to_device
from .base import Bound
from .control_schedule import checked_rates, costs_of, rates_of
from .coupling import coupling_table

if TYPE_CHECKING:
    from .syncvc import SyncVC

TIMES = 1000  # the scale of `control_window`


class BoundSyncVC(Bound["SyncVC"]):
    """What a run's steps and views need: who reads whom, per-step coefficients [T], and the rewards."""

    def __init__(self, settings: SyncVC, run: Run) -> None:
        super().__init__(settings, run)
        table = run.times.table
        if settings.kl_scheme == "ddim" and is_vanishing(table.a):
            raise ValueError(
                "kl_scheme='ddim' divides by a_t, which is 0 at this schedule's first time: use kl_scheme='none'."
            )
        self._eps_pull, self._step_pull = coupling_table(table, settings.inv_lambda, settings.coupling)
        self._kl = torch.full_like(table.a, settings.kl_weight)
        if settings.kl_scheme == "ddim":
            self._kl = self._kl * (table.direction - table.a_next * table.b / table.a) ** 2
        rates = rates_of(checked_rates(settings.lr, settings.iterations), len(table), settings.iterations)
        costs = costs_of(settings.control_cost, len(table))
        # What is the same at all steps stays a number; else a batch's views, at steps of their own, have one each.
        self._rates = rates[0] if rates == rates[:1] * len(rates) else table.a.new_tensor(rates, dtype=run.dtype)
        self._costs = costs[0] if costs == costs[:1] * len(costs) else table.a.new_tensor(costs, dtype=run.dtype)
        rewards = [as_reward(reward) for reward in settings.rewards or ()]
        self._rewards = RewardSum(rewards, run.canvas, run.order, run.sources, run.decode, run.states.estimate)
        if settings.feature_reuse:
            run.network.deep_features()  # refuses early what the prior does not have
        run.noise.candidates = 0 if settings.search is None else settings.search - 1
        if settings.control_window is not None and run.prior.schedule.continuous:
            raise ValueError(
                "control_window names times on the training's scale, and the scheduler's are log(sigma) / 4 "
                "(timestep_type='continuous'): use control_window=None."
            )
        high, low = settings.control_window or (math.inf, -math.inf)
        times = run.times.host_times.double() * (TIMES / run.prior.schedule.num_train_timesteps)
        self._steered = ((low <= times) & (times <= high)).tolist()
        self._neighbours = run.canvas.neighbours(run.order)

    def estimate(self, work: Work) -> Estimates:
        """Choose the batch's controls, and ask the prior at the controlled views."""
        run, settings = self.run, self.settings
        x = run.states.before(work)
        steps, query = run.times.steps(work), run.network.query(work)
        address = run.states.address(work, self._neighbours)
        controlled = [
            n for n, (i, k) in enumerate(work) if self._steered[k] and (run.sources[i] or self._rewards.scores_view(i))
        ]
        rows = to_device(torch.tensor(controlled, dtype=torch.long), run.device)
        some = [work[n] for n in controlled]
        steered = bool(controlled) and (settings.iterations > 0 or settings.search is not None)
        if steered and settings.search is None:
            asked = query.items(controlled, rows)
            x = x.index_copy(0, rows, self._optimise(some, asked, x[rows], address.rows(rows), steps[rows]))
        prediction = query.predict(x)
        if steered and settings.search is not None:
            free = [t.index_select(0, rows) for t in (x, *prediction)]
            best = self._search(some, query.items(controlled, rows), free, address.rows(rows))
            x, *estimates = (t.index_copy(0, rows, u) for t, u in zip((x, *prediction), best, strict=True))
            prediction = Prediction(*estimates)
        # Controlled views keep their history (`moved` is not set). Dropping it was tried with DPM-Solver++ 2M on the
        # zoo's scenes (four pictures, 20 and 10 steps): views then differ by 1 to 2 % more where they overlap (with
        # search=4 by 14 %), chi-square is the same within its scatter, and pictures have less detail: 0.73 of single
        # samples' crispness in place of 0.83.
        return Estimates(x, prediction, pull=self._step_pull[steps], address=address)

    def advance(self, work: Work) -> None:
        """As every method's; then let go of what rewards kept for views that have read it."""
        super().advance(work)
        self._rewards.done(work)

    def state_dict(self) -> dict[str, Any]:
        """What rewards keep of views that others have not read yet."""
        return self._rewards.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with that."""
        self._rewards.load_state_dict(state)

    def compose(self, views: torch.Tensor) -> torch.Tensor:
        """The final canvas, painted in work order or merged."""
        if self.settings.composite == "merge":
            return self.run.canvas.merge(views)
        return self.run.canvas.composite(views, self.run.order)

    def _optimise(
        self, work: Work, query: Query, start: torch.Tensor, address: Address, steps: torch.Tensor
    ) -> torch.Tensor:
        """K iterations of Adam from views ``start`` [B, C, h, w]; returns the controlled views x~."""
        run, settings = self.run, self.settings
        everyone, chosen = work, torch.arange(len(work), device=start.device)
        controls = torch.zeros_like(start)
        x, eps_free, result = start, start, start
        control, first, second = (torch.zeros_like(start) for _ in range(3))
        before: torch.Tensor | None = None
        strength = settings.control_strength
        rates = self._rates[steps] if isinstance(self._rates, torch.Tensor) else self._rates
        costs = self._costs[steps] if isinstance(self._costs, torch.Tensor) else self._costs
        # The control's own size is in the loss, scaled as it moves x.
        cost = 0.0 if isinstance(costs, torch.Tensor) else costs
        costly = cost > 0 and strength != 1.0
        deep = run.network.deep_features() if settings.feature_reuse else None
        eps_pull, kl = self._eps_pull[steps], self._kl[steps]
        for iteration in range(settings.iterations):
            at = query.evaluate(x, self._through, deep)
            if iteration == 0:
                # u = 0: this evaluation is the prior's own prediction, and is never computed twice.
                eps_free = at.eps
            overlap, overlap_gradient = ops.overlap_loss(at.x0, run.states.clean, *address)
            place, index, mask, period = address
            loss, cotangent, direct, peak = ops.control_grad(
                x,
                at.eps,
                eps_free,
                strength * control if costly else control,
                overlap_gradient,
                self._rewards.gradient(work, at.x0) if self._rewards else None,
                run.states.noisy,
                place,
                index,
                mask,
                eps_pull,
                query.a,
                query.b,
                query.scale,
                kl,
                settings.reward_weight,
                cost,
                period,
                at.kind,
                at.guided,
            )
            if isinstance(costs, torch.Tensor):
                moved = strength * control
                direct = direct + 2.0 * costs[:, None, None, None] * moved
                loss = loss + costs * moved.square().flatten(1).sum(1)
            vjp, scale = query.pullback(at, cotangent, peak)
            past = (first, second, vjp, scale, direct, start, iteration)
            if isinstance(rates, torch.Tensor):
                # Adam's own step is that of lr = 1, which each view takes as far as its rate says.
                toward = torch.zeros_like(control)
                ops.control_update(toward, *past, 1.0, strength)
                control = control + rates[:, iteration, None, None, None] * toward
                x = start + strength * control
            else:
                x = ops.control_update(control, *past, rates[iteration], strength)
            if settings.tolerance is None:
                controls, result = control, x
                continue
            controls[chosen], result = control, result.index_copy(0, chosen, x)
            loss = loss + settings.reward_weight * overlap
            if before is not None:
                falling = (before - loss >= settings.tolerance * before).nonzero()[:, 0]
                if len(falling) < len(work):
                    if not len(falling):
                        break
                    going = falling.tolist()
                    work, query, chosen = [work[n] for n in going], query.items(going, falling), chosen[falling]
                    eps_pull, kl = eps_pull[falling], kl[falling]
                    rates = rates[falling] if isinstance(rates, torch.Tensor) else rates
                    costs = costs[falling] if isinstance(costs, torch.Tensor) else costs
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
        settings = self.settings
        return "nothing" if settings.jacobian == "identity" else settings.guidance_gradient

    def _search(self, work: Work, query: Query, free: list[torch.Tensor], address: Address) -> list[torch.Tensor]:
        """The best candidates and their estimates ``[x~, x0, eps]``, from the uncontrolled ones, [B, C, h, w] each.

        One call of the network a candidate: batches stay as large as ``max_batch`` allows, and only the best is kept.
        """
        run, settings = self.run, self.settings
        start, x0, eps = free
        b = query.b.to(start.dtype)[:, None, None, None]
        kept = math.sqrt(1.0 - settings.search_scale**2)
        best, best_score = free, self._score(work, x0, address)
        for candidate in range(run.noise.candidates):
            drawn = settings.search_scale * run.noise.candidate(work, candidate)
            x = start + b * ((kept - 1.0) * eps + drawn)
            prediction = query.predict(x)
            score = self._score(work, prediction.x0, address)
            better = score > best_score
            best_score = torch.where(better, score, best_score)
            better = better[:, None, None, None]
            best = [torch.where(better, new, old) for new, old in zip((x, *prediction), best, strict=True)]
        return best

    def _score(self, work: Work, x0: torch.Tensor, address: Address) -> torch.Tensor:
        """Rewards and the overlap's [B] at clean estimates [B, C, h, w]."""
        overlap, _ = ops.overlap_loss(x0, self.run.states.clean, *address)
        score = -self.settings.reward_weight * overlap
        return score + self._rewards.scores(work, x0) if self._rewards else score
