"""One batch's question to the network, forward and backward."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import Literal, NamedTuple

import torch

from .. import ops
from ..conditions import Conditions, joined
from ..ops.control_grad import ESTIMATES
from ..priors.base import Prediction, Prior
from ..priors.reuse import DeepFeatures
from ..stats import Stats

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


class _Rows(NamedTuple):
    """What a network call is given beside x, for all of its rows."""

    t: torch.Tensor
    cond: Conditions | None
    a: torch.Tensor
    b: torch.Tensor


class Query:
    """A batch's times and conditions, gathered once and asked about at many x.

    Everything that does not depend on x is made here, in the shapes that the network takes, so that a control's
    iterations start a handful of kernels each and the host never waits. States may live on another device than the
    network's; they cross over here and nowhere else.

    Args:
        prior: who is asked.
        device: the prior's. Asked for once a run, because a pipeline searches all its modules for it.
        stats: the run's account, in which every row is counted.
        buckets: ascending batch sizes that the network is called with, smaller batches being padded; None: any size.
        rescale: of guidance, from 0 to 1.
        t: [B], times.
        a, b: [B], float64, coefficients at t.
        scale: [B], float64, guidance's s for each item.
        cond, uncond: rows of B views; ``uncond`` None without guidance.
    """

    def __init__(
        self,
        prior: Prior,
        device: torch.device,
        stats: Stats,
        buckets: Sequence[int] | None,
        rescale: float,
        t: torch.Tensor,
        a: torch.Tensor,
        b: torch.Tensor,
        scale: torch.Tensor,
        cond: Conditions | None,
        uncond: Conditions | None,
    ) -> None:
        self.prior, self.device, self.stats, self.buckets, self.rescale = prior, device, stats, buckets, rescale
        self.t, self.a, self.b, self.scale, self.cond, self.uncond = t, a, b, scale, cond, uncond
        self.count, self.halves = len(t), 1 if uncond is None else 2
        self._extra = next((size - self.count for size in buckets or () if size >= self.count), 0)
        self._asked: dict[Half, _Rows] = {}

    @property
    def _linear(self) -> bool:
        """Whether the estimates are linear in the network's output, so that gradients around it have a closed form."""
        linear = self.uncond is None or (not self.rescale and self.prior.mixes_linearly)
        return linear and not self.prior.schedule.clips

    @cached_property
    def _half(self) -> bool:
        """Whether the network computes in half precision."""
        return self.prior.dtype in (torch.float16, torch.bfloat16)

    def items(self, chosen: Sequence[int], rows: torch.Tensor) -> Query:
        """The question about some of the batch's items; ``rows`` is ``chosen``, int64 [B'], where the states are."""
        cond, uncond = (c if c is None else c.select(chosen) for c in (self.cond, self.uncond))
        t, a, b, scale = (column[rows] for column in (self.t, self.a, self.b, self.scale))
        told = (self.prior, self.device, self.stats, self.buckets, self.rescale)
        return Query(*told, t, a, b, scale, cond, uncond)

    def predict(self, x: torch.Tensor) -> Prediction:
        """The prior's estimates at x [B, C, h, w]; differentiable in x."""
        self._count()
        return self._predict(x, None)

    def evaluate(self, x: torch.Tensor, through: Through = "both", deep: DeepFeatures | None = None) -> Evaluation:
        """As ``predict``, ready to be gone back through by ``pullback``.

        With ``deep`` the first evaluation of a batch leaves its deep features there, and further ones, of the same
        items, take them for constants.

        Where the prior hands out its network's own output, and the estimates are linear in it, autograd holds the
        network alone: the ops around it have closed-form gradients. Else it holds the prior's whole prediction.
        """
        self._count()
        if deep is not None and deep.kept:
            self.stats.shallow += self.count * self.halves
        if through == "nothing":
            prediction = self._predict(x, deep)
            # With a eps - b x0 constant, x = a x0 + b eps moves x0 by a / (a^2 + b^2) and eps by b / (a^2 + b^2).
            a, b = (c.to(x.dtype)[:, None, None, None] for c in (self.a, self.b))
            slope = (a / (a**2 + b**2), b / (a**2 + b**2))
            return Evaluation(x, *prediction, x, ESTIMATES, False, through, slope)
        x = x.detach().requires_grad_()
        if through == "cond" and self.uncond is not None:
            return self._evaluate_cond(x, deep)
        if self.prior.has_network and self._linear:
            with torch.enable_grad():
                raw = self._raw(x, "both", deep)
            kind, guided = self.prior.schedule.prediction_type, self.uncond is not None
            prediction = self.prior.estimates(raw.detach(), x.detach(), self.a, self.b, self.scale)
        else:
            with torch.enable_grad():
                prediction = self._predict(x, deep)
                raw = torch.cat([prediction.x0, prediction.eps])
            kind, guided = ESTIMATES, False
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
        scale = peak if self._half else None
        if not raw.requires_grad:
            return torch.zeros_like(x), scale
        if self._half:
            cotangent = ops.scale_cotangent(cotangent, peak, raw.dtype)
        return torch.autograd.grad(raw, x, cotangent.to(raw.dtype))[0], scale

    # ---- the network ------------------------------------------------------------------------------------------

    def _count(self) -> None:
        self.stats.calls += 1
        self.stats.evaluations += self.count * self.halves

    def _predict(self, x: torch.Tensor, deep: DeepFeatures | None) -> Prediction:
        if self.prior.has_network:
            raw = self._raw(x, "both", deep)
            return self.prior.estimates(raw, x, self.a, self.b, self.scale, self.rescale)
        if self.rescale and self.uncond is not None:
            raise ValueError(
                f"Guidance(rescale={self.rescale:g}) needs the network's own output, and {type(self.prior).__name__} "
                "gives estimates alone: use rescale=0, or override network() in place of predict()."
            )
        self.stats.padded += self._extra * self.halves
        views, t, scale = (self._filled(c).to(self.device) for c in (x, self.t, self.scale))
        cond, uncond = (c if c is None else c.filled(self._extra) for c in (self.cond, self.uncond))
        with self._serving(deep, "both", self.halves):
            prediction = self.prior.predict(views, t, cond, uncond, scale)
        return Prediction(*(estimate[: self.count].to(x.device) for estimate in prediction))

    def _evaluate_cond(self, x: torch.Tensor, deep: DeepFeatures | None) -> Evaluation:
        """The two halves apart: only one keeps what a backward pass needs."""
        prior = self.prior
        if not prior.has_network or not self._linear:
            raise ValueError(
                "guidance_gradient='cond' needs a prior that hands out its network's own output, does not clip it, and "
                "guidance that does not rescale it: use guidance_gradient='both'."
            )
        self.stats.calls += 1
        with torch.no_grad():
            # A copy: CUDA graphs (compile="max") take the memory of one call's output for the next call.
            constant = self._raw(x.detach(), "uncond", deep).clone()
        with torch.enable_grad():
            raw = self._raw(x, "cond", deep)
        both = torch.cat([constant, raw.detach()])
        prediction = prior.estimates(both, x.detach(), self.a, self.b, self.scale)
        return Evaluation(x, *prediction, raw, prior.schedule.prediction_type, True, "cond")

    def _raw(self, x: torch.Tensor, half: Half, deep: DeepFeatures | None) -> torch.Tensor:
        """The network's output for x's own rows, the unconditional half first where there are two."""
        if half not in self._asked:
            self._asked[half] = self._rows_of(half)
        halves = self.halves if half == "both" else 1
        self.stats.padded += self._extra * halves
        given = torch.cat(self._pieces(x) * halves) if halves > 1 or self._extra else x
        t, cond, a, b = self._asked[half]
        with self._serving(deep, half, halves):
            raw = self.prior.rows(given.to(self.device), t, cond, a, b).to(x.device)
        return raw.unflatten(0, (halves, -1))[:, : self.count].flatten(0, 1) if self._extra else raw

    def _rows_of(self, half: Half) -> _Rows:
        """Times, conditions and coefficients of a call's rows, on the prior's device."""
        columns = [self._filled(column).to(self.device) for column in (self.t, self.a, self.b)]
        cond = self.uncond if half == "uncond" else self.cond
        cond = None if cond is None else cond.filled(self._extra)
        if half == "both" and self.uncond is not None and cond is not None:
            cond = joined(self.uncond.filled(self._extra), cond)
            columns = [torch.cat([column, column]) for column in columns]
        t, a, b = columns
        return _Rows(t, cond, a, b)

    def _serving(self, deep: DeepFeatures | None, half: Half, halves: int) -> AbstractContextManager[None]:
        return nullcontext() if deep is None else deep.serving(half, halves, self.count)

    def _pieces(self, x: torch.Tensor) -> list[torch.Tensor]:
        """x and, where the batch is padded, its last row so many times."""
        return [x, x[-1:].detach().expand(self._extra, *x.shape[1:])] if self._extra else [x]

    def _filled(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat(self._pieces(x)) if self._extra else x
