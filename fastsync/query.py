"""What the network is asked about a batch of views, forward and backward."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, NamedTuple

import torch

from . import conditions, ops
from .conditions import Condition
from .priors.base import NetworkPrior, Prediction, Prior
from .priors.reuse import DeepFeatures
from .stats import Stats

# What of the network a control's gradient passes through: both of guidance's halves, the conditional one, or none, its
# velocity being taken for a constant.
Through = Literal["both", "cond", "nothing"]
# The rows of a network call: guidance's two halves (or the only one), or one of the two.
Half = Literal["both", "uncond", "cond"]


class Evaluation(NamedTuple):
    """One network call at leaf ``x``, with what is needed to go back through it.

    ``x0`` and ``eps`` [B, C, h, w] carry no gradient; ``raw`` does, and ``control_grad`` with ``kind`` and ``guided``
    gives its cotangent. Where only the conditional half can be gone back through, ``raw`` is that half.
    """

    x: torch.Tensor
    x0: torch.Tensor
    eps: torch.Tensor
    raw: torch.Tensor
    kind: str
    guided: bool
    through: Through
    slope: tuple[torch.Tensor, torch.Tensor] | None = None


class Query:
    """A batch's times and conditions, gathered once and asked about at many x.

    Everything that does not depend on x is made here, in the shapes that the network takes, so that a control's
    iterations start a handful of kernels each and the host never waits. States may live on another device than the
    network's; they cross over here and nowhere else.

    Args:
        prior: who is asked.
        stats: the run's account, in which every row is counted.
        buckets: ascending batch sizes that the network is called with, smaller batches being padded; None: any size.
        guidance_scale: as in ``sample``.
        t: [B], times.
        cond, uncond: [B, ...], tuples of such, or None.

    Attributes:
        a, b: [B], float64, coefficients at t.
        guidance: [B], float64.
    """

    def __init__(
        self,
        prior: Prior,
        stats: Stats,
        buckets: Sequence[int] | None,
        guidance_scale: float,
        t: torch.Tensor,
        cond: Condition | None,
        uncond: Condition | None,
    ) -> None:
        self.prior, self.stats, self.buckets, self.guidance_scale = prior, stats, buckets, guidance_scale
        self.t, self.cond, self.uncond = t, cond, uncond
        self.count, self.halves = len(t), 1 if uncond is None else 2
        self.a, self.b = prior.schedule.coefficients(t)
        self.guidance = torch.full_like(self.a, guidance_scale)
        self._extra = next((size - self.count for size in buckets or () if size >= self.count), 0)
        self._asked: dict[Half, tuple[torch.Tensor, Condition | None]] = {}

    def rows(self, rows: torch.Tensor) -> Query:
        """The query about some of the batch's items, int64 [B']."""
        cond, uncond = conditions.both(lambda member: member[rows], self.cond, self.uncond)
        return Query(self.prior, self.stats, self.buckets, self.guidance_scale, self.t[rows], cond, uncond)

    def predict(self, x: torch.Tensor) -> Prediction:
        """The prior's estimates at x [B, C, h, w]; differentiable in x."""
        self._count()
        return self._predict(x, None)

    def evaluate(self, x: torch.Tensor, through: Through = "both", deep: DeepFeatures | None = None) -> Evaluation:
        """As ``predict``, ready to be gone back through by ``pullback``.

        With ``deep`` the first evaluation of a batch leaves its deep features there, and further ones, of the same
        items, take them for constants.

        Where the prior hands out its network's own output (and clips nothing), autograd holds the network alone: the
        ops around it have closed-form gradients. Else it holds the prior's whole prediction.
        """
        self._count()
        if deep is not None and deep.kept:
            self.stats.shallow += self.count * self.halves
        if through == "nothing":
            prediction = self._predict(x, deep)
            # With a eps - b x0 constant, x = a x0 + b eps moves x0 by a / (a^2 + b^2) and eps by b / (a^2 + b^2).
            a, b = (c.to(x.dtype)[:, None, None, None] for c in (self.a, self.b))
            slope = (a / (a**2 + b**2), b / (a**2 + b**2))
            return Evaluation(x, *prediction, x, "estimates", False, through, slope)
        x = x.detach().requires_grad_()
        if through == "cond" and self.uncond is not None:
            return self._evaluate_cond(x, deep)
        if isinstance(self.prior, NetworkPrior) and not self.prior.schedule.clips:
            with torch.enable_grad():
                raw = self._raw(self.prior, x, "both", deep)
            kind, guided = self.prior.schedule.prediction_type, self.uncond is not None
            prediction = self.prior.convert(raw.detach(), x.detach(), self.a, self.b, self.guidance)
        else:
            with torch.enable_grad():
                prediction = self._predict(x, deep)
                raw = torch.cat([prediction.x0, prediction.eps])
            kind, guided = "estimates", False
        return Evaluation(x, prediction.x0.detach(), prediction.eps.detach(), raw, kind, guided, "both")

    def pullback(
        self, evaluation: Evaluation, cotangent: torch.Tensor, peak: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Vector-Jacobian product [B, C, h, w] of ``evaluation.raw`` with its cotangent, and its scale [B] or None.

        In half precision the cotangents of each view are divided by their largest magnitude ``peak`` [B], since the
        network's backward overflows otherwise; the product is then to be multiplied by the scale.
        """
        x, raw = evaluation.x, evaluation.raw
        if evaluation.slope is not None:
            g_x0, g_eps = cotangent.chunk(2)
            return evaluation.slope[0] * g_x0 + evaluation.slope[1] * g_eps, None
        if evaluation.through == "cond":
            cotangent = cotangent[len(x) :]
        self.stats.gradients += len(x) * (1 if evaluation.through == "cond" else self.halves)
        half = self.prior.dtype in (torch.float16, torch.bfloat16)
        scale = peak if half else None
        if not raw.requires_grad:
            return torch.zeros_like(x), scale
        if half:
            cotangent = ops.scale_cotangent(cotangent, peak, raw.dtype)
        return torch.autograd.grad(raw, x, cotangent.to(raw.dtype))[0], scale

    # ---- the network ------------------------------------------------------------------------------------------

    def _count(self) -> None:
        self.stats.calls += 1
        self.stats.evaluations += self.count * self.halves

    def _predict(self, x: torch.Tensor, deep: DeepFeatures | None) -> Prediction:
        if isinstance(self.prior, NetworkPrior):
            raw = self._raw(self.prior, x, "both", deep)
            return self.prior.convert(raw, x, self.a, self.b, self.guidance)
        self.stats.padded += self._extra * self.halves
        views, t = (self._filled(c).to(self.prior.device) for c in (x, self.t))
        cond, uncond = conditions.both(self._filled, self.cond, self.uncond)
        with self._serving(deep, "both", self.halves):
            prediction = self.prior.predict(views, t, cond, uncond, self.guidance_scale)
        return Prediction(*(estimate[: self.count].to(x.device) for estimate in prediction))

    def _evaluate_cond(self, x: torch.Tensor, deep: DeepFeatures | None) -> Evaluation:
        """The two halves apart: only one keeps what a backward pass needs."""
        prior = self.prior
        if not isinstance(prior, NetworkPrior) or prior.schedule.clips:
            raise ValueError(
                "guidance_gradient='cond' needs a prior that hands out its network's own output and does not clip it: "
                "use guidance_gradient='both'."
            )
        self.stats.calls += 1
        with torch.no_grad():
            # A copy: CUDA graphs (compile="max") take the memory of one call's output for the next call.
            constant = self._raw(prior, x.detach(), "uncond", deep).clone()
        with torch.enable_grad():
            raw = self._raw(prior, x, "cond", deep)
        both = torch.cat([constant, raw.detach()])
        prediction = prior.convert(both, x.detach(), self.a, self.b, self.guidance)
        return Evaluation(x, *prediction, raw, prior.schedule.prediction_type, True, "cond")

    def _raw(self, prior: NetworkPrior, x: torch.Tensor, half: Half, deep: DeepFeatures | None) -> torch.Tensor:
        """The network's output for x's own rows, the unconditional half first where there are two."""
        if half not in self._asked:
            cond = self.uncond if half == "uncond" else self.cond
            uncond = self.uncond if half == "both" else None
            t = self._filled(self.t).to(self.prior.device)
            self._asked[half] = prior.joined(t, *conditions.both(self._filled, cond, uncond))
        halves = self.halves if half == "both" else 1
        self.stats.padded += self._extra * halves
        given = torch.cat(self._pieces(x) * halves) if halves > 1 or self._extra else x
        with self._serving(deep, half, halves):
            raw = prior.raw_rows(given.to(self.prior.device), *self._asked[half]).to(x.device)
        return raw.unflatten(0, (halves, -1))[:, : self.count].flatten(0, 1) if self._extra else raw

    def _serving(self, deep: DeepFeatures | None, half: Half, halves: int) -> AbstractContextManager[None]:
        return nullcontext() if deep is None else deep.serving(half, halves, self.count)

    def _pieces(self, x: torch.Tensor) -> list[torch.Tensor]:
        """x and, where the batch is padded, its last row so many times."""
        return [x, x[-1:].detach().expand(self._extra, *x.shape[1:])] if self._extra else [x]

    def _filled(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat(self._pieces(x)) if self._extra else x
