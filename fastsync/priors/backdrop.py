"""A prior with a known background behind the object."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch

from ..conditions import Conditions
from ..diffusion import StepTable
from ..errors import shown
from .base import PipelinePrior, Prediction, Prior
from .codecs import OPEN
from .request import Told, ViewRequest
from .reuse import DeepFeatures

BACKDROP, BESIDE = "backdrop", "beside"  # names among the conditions


class BackdropPrior(PipelinePrior):
    """Another prior, told the clean picture beside the objects: its estimate there is that picture.

    Where a view's background is known (a flat colour behind a mesh), the network's output is replaced by the one that
    belongs to it, ``x0 = z`` and ``eps = (x - a z) / b``, whatever the kind of prediction. Deterministic steps then
    carry the background's own noise down to it, every method and order runs as ever, and all is differentiable. The
    published set-ups paste the noised background into the states after every step (SyncMVD, Liu 2024).

    Args:
        prior: the prior that is asked, one with a network of its own. Its conditions get two more, see
            :meth:`with_backdrop`.
    """

    def __init__(self, prior: Prior) -> None:
        if not isinstance(prior, Prior) or not prior.has_network:
            raise TypeError(
                f"BackdropPrior needs a prior that hands out its network's own output, got {shown(prior)}: pass a "
                "FunctionPrior or what fastsync.priors.wrap gives."
            )
        self.prior, self.schedule = prior, prior.schedule
        self.codec, self.runtime, self.condition_name = prior.codec, prior.runtime, prior.condition_name
        self.takes_control = isinstance(prior, PipelinePrior) and prior.takes_control

    def with_backdrop(self, conditions: Any, backdrop: torch.Tensor, beside: torch.Tensor) -> Conditions:
        """Conditions of this prior.

        Args:
            conditions: of the prior that is asked, named or a bare tensor.
            backdrop: [N, C, h, w] in that prior's sample units.
            beside: bool [N, 1, h, w], where it is seen.
        """
        own = Conditions.of(conditions, self.condition_name)
        return own.updated(**{BACKDROP: backdrop, BESIDE: beside})

    def settled(
        self, raw: torch.Tensor, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, cond: Conditions | None
    ) -> torch.Tensor:
        """The prior's own output on the object, the backdrop's beside it."""
        assert cond is not None  # network() has looked
        raw = self.prior.settled(raw, x, a, b, self._own(cond))
        a, b = (c.to(x.dtype)[:, None, None, None] for c in (a, b))
        clean = cond[BACKDROP].to(x.dtype)
        eps = (x - a * clean) / b
        known = {"epsilon": eps, "v_prediction": a * eps - b * clean, "sample": clean, "flow": eps - clean}
        return torch.where(cond[BESIDE], known[self.schedule.prediction_type].to(raw.dtype), raw)

    def network(self, x: torch.Tensor, t: torch.Tensor, cond: Conditions | None) -> torch.Tensor:
        """As of the prior that is asked; the backdrop comes in when the output is settled."""
        return self.prior.network(x, t, self._own(cond))

    def prepare_conditions(
        self, cond: Conditions | None, uncond: Conditions | None, num_views: int
    ) -> tuple[Conditions | None, Conditions | None]:
        """Let the prior that is asked prepare its own part."""
        prepared = self.prior.prepare_conditions(
            self._own(cond), None if uncond is None else self._own(uncond), num_views
        )
        told = [
            own if whole is None or own is None else self.with_backdrop(own, whole[BACKDROP], whole[BESIDE])
            for own, whole in zip(prepared, (cond, uncond), strict=True)
        ]
        return told[0], told[1]

    @staticmethod
    def _own(cond: Conditions | None) -> Conditions | None:
        """The conditions of the prior that is asked."""
        if cond is None or BACKDROP not in cond or BESIDE not in cond:
            raise ValueError("cond has no backdrop: pass prior.with_backdrop(cond, backdrop, beside).")
        return cond.without(BACKDROP, BESIDE)

    # ---- all else is the other prior's -------------------------------------------------------------------------

    @property
    def _family(self) -> PipelinePrior:
        """The prior that is asked, where it is one of a pipeline."""
        if not isinstance(self.prior, PipelinePrior):
            raise AttributeError(f"{type(self.prior).__name__} has no pipeline: wrap one with fastsync.priors.wrap.")
        return self.prior

    @property
    def pipe(self) -> Any:
        """The diffusers pipeline."""
        return self._family.pipe

    @property
    def window(self) -> tuple[int, int]:  # type: ignore[override]
        return self._family.window

    @property
    def way(self) -> str:  # type: ignore[override]
        return self._family.way

    @property
    def mixes_linearly(self) -> bool:
        return self.prior.mixes_linearly

    def estimates(self, *args: Any, **kwargs: Any) -> Prediction:
        return self.prior.estimates(*args, **kwargs)

    @property
    def view_shape(self) -> tuple[int, int, int]:
        return self.prior.view_shape

    @property
    def device(self) -> torch.device:
        return self.prior.device

    @property
    def dtype(self) -> torch.dtype:
        return self.prior.dtype

    @property
    def memory_key(self) -> object:
        return self.prior.memory_key

    def steps(self, num_inference_steps: int, eta: float = 0.0) -> StepTable:
        return self.prior.steps(num_inference_steps, eta)

    def encode(self, pixels: torch.Tensor, closed: tuple[bool, bool] = OPEN) -> torch.Tensor:
        return self.prior.encode(pixels, closed)

    def decode(self, latents: torch.Tensor, closed: tuple[bool, bool] = OPEN) -> torch.Tensor:
        return self.prior.decode(latents, closed)

    def told(self, request: ViewRequest) -> Told:
        """What the prior that is asked is told; its conditions lack the backdrop (:meth:`with_backdrop`)."""
        return self._family.told(request)

    def encode_prompt(self, prompt: Any, negative_prompt: Any = None) -> tuple[Any, Any]:
        return self._family.encode_prompt(prompt, negative_prompt)

    def with_control(self, cond: Any, uncond: Any, control: torch.Tensor) -> tuple[Any, Any]:
        return self._family.with_control(cond, uncond, control)

    def deep_features(self) -> DeepFeatures:
        return self.prior.deep_features()

    def sampling(self) -> AbstractContextManager[None]:
        return self.prior.sampling()

    def __repr__(self) -> str:
        return f"{type(self).__name__} around {self.prior!r}"
