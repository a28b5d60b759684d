"""A run's rewards, asked together: pictures are decoded once, gradients taken once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from .. import ops
from ..canvases.base import LinearCanvas
from ..errors import shape_text
from ..scheduling import Work
from .base import Reward

Decode = Callable[[torch.Tensor], torch.Tensor]


class RewardSum:
    """The sum of some rewards over the views of one run.

    Args:
        rewards: of which some may want pictures.
        canvas, order: of the run.
        sources: for each view those whose estimates are its ``earlier``.
        decode: clean views [B, C, h, w] to pictures [B, 3, H, W] in [-1, 1], differentiable.
        estimate: ``(view, step)`` to the final clean estimate [C, h, w] of an earlier view.
    """

    def __init__(
        self,
        rewards: Sequence[Reward],
        canvas: LinearCanvas,
        order: Sequence[int],
        sources: Sequence[Sequence[int]],
        decode: Decode,
        estimate: Callable[[int, int], torch.Tensor],
    ) -> None:
        self.rewards = [reward.begin(canvas, order) for reward in rewards]
        self._sources, self._decode, self._estimate = sources, decode, estimate
        self._pixels = any(reward.pixels for reward in self.rewards)
        # Pictures of earlier views, by (view, step), kept until the last view that reads them has done the step.
        self._pictures: dict[tuple[int, int], torch.Tensor] = {}
        self._readers: dict[tuple[int, int], int] = {}
        self._read_by = [sum(i in read for read in sources) for i in range(canvas.num_views)]
        # Per reward: views scored without a gradient so far; None once one had a gradient.
        self._silent: list[set[int] | None] = [set() for _ in self.rewards]

    def __bool__(self) -> bool:
        """Whether there is any reward."""
        return bool(self.rewards)

    def scores_view(self, view: int) -> bool:
        """Whether any reward scores the view."""
        return any(reward.scores_first_view or self._sources[view] for reward in self.rewards)

    def scores(self, work: Work, x0: torch.Tensor) -> torch.Tensor:
        """Sum of rewards [B] at clean estimates x0 [B, C, h, w], without gradient.

        Raises:
            FloatingPointError: a reward is NaN (names view and step).
        """
        with torch.no_grad():
            pictures = self._to_pictures(x0)[1] if self._pixels else None
            values = self._ask(work, x0, pictures)
        totals = x0.new_zeros(len(work))
        for n, row in enumerate(values):
            for _, value in row:
                totals[n] += value.to(totals)
        if bool(totals.isnan().any()):
            view, step = work[int(totals.isnan().nonzero()[0, 0])]
            raise FloatingPointError(
                f"the rewards are not a number at view {view}, step {step}: look at what they return."
            )
        return totals

    def gradient(self, work: Work, x0: torch.Tensor) -> torch.Tensor:
        """Gradient [B, C, h, w] of the sum of rewards at clean estimates x0 [B, C, h, w].

        Raises:
            TypeError: a reward gave no gradient for any view.
        """
        leaf = x0.detach().requires_grad_()
        decoded = pictures = None
        with torch.enable_grad():
            if self._pixels:
                decoded, shown = self._to_pictures(leaf)
                pictures = shown.detach().requires_grad_()
            values = self._ask(work, leaf, pictures)
        self._check_gradients(work, values)
        with_gradient = [value for row in values for _, value in row if value.requires_grad]
        total = torch.zeros_like(leaf)
        if not with_gradient:
            return total
        wanted = [leaf] if pictures is None else [leaf, pictures]
        direct, *through = torch.autograd.grad(with_gradient, wanted, allow_unused=True)
        if direct is not None:
            total = total + direct
        if decoded is not None and through[0] is not None and decoded.requires_grad:
            # Pictures are half of what was decoded; a decoder in half precision would lose gradients as small as these.
            cotangent = 0.5 * through[0]
            peak = cotangent.abs().flatten(1).amax(1)
            half = decoded.dtype.itemsize < 4
            cotangent = ops.scale_cotangent(cotangent, peak, decoded.dtype) if half else cotangent.to(decoded.dtype)
            back = torch.autograd.grad(decoded, leaf, cotangent)[0].to(total.dtype)
            total = total + (back * peak[:, None, None, None] if half else back)
        return total

    def done(self, work: Work) -> None:
        """Let go of pictures that nobody will read any more; called when the views have done their steps."""
        for view, step in work:
            for j in self._sources[view]:
                self._readers[j, step] = self._readers.get((j, step), self._read_by[j]) - 1
                if not self._readers[j, step]:
                    del self._readers[j, step]
                    self._pictures.pop((j, step), None)

    def state_dict(self) -> dict[str, Any]:
        """Pictures that will be read again, who has read them, and which rewards have had a gradient so far."""
        silent = [views if views is None else sorted(views) for views in self._silent]
        return {"pictures": self._pictures, "readers": self._readers, "silent": silent}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where ``state_dict`` was called: pictures decoded again, in other batches, might differ in a bit."""
        self._pictures, self._readers = state["pictures"], state["readers"]
        self._silent = [views if views is None else set(views) for views in state["silent"]]

    def _ask(self, work: Work, x0: torch.Tensor, pictures: torch.Tensor | None) -> list[list[tuple[int, torch.Tensor]]]:
        """For each item (reward's number, value) of those that speak of it."""
        if any(reward.pixels and reward.reads_earlier for reward in self.rewards):
            self._remember(work)
        answers = []
        for n, (view, step) in enumerate(work):
            row = []
            for r, reward in enumerate(self.rewards):
                sources = self._sources[view]
                if not sources and not reward.scores_first_view:
                    continue
                look = self._pictures.__getitem__ if reward.pixels else lambda key: self._estimate(*key)
                earlier = [look((j, step)) for j in sources] if reward.reads_earlier else []
                own = pictures[n] if reward.pixels and pictures is not None else x0[n]
                row.append((r, _scalar(reward, reward(own, earlier, view), x0)))
            answers.append(row)
        return answers

    def _remember(self, work: Work) -> None:
        """Decode the earlier views' estimates that have not been decoded, in one batch, without gradient."""
        wanted = {(j, step): None for view, step in work for j in self._sources[view]}
        missing = [key for key in wanted if key not in self._pictures]
        if missing:
            with torch.no_grad():
                pictures = self._to_pictures(torch.stack([self._estimate(*key) for key in missing]))[1]
            self._pictures.update(zip(missing, pictures.unbind(), strict=True))

    def _to_pictures(self, x0: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What the decoder gives, and pictures [B, 3, H, W] in about [0, 1] in x0's dtype."""
        decoded = self._decode(x0)
        if decoded.ndim != 4 or decoded.shape[1] != 3:
            raise ValueError(
                f"rewards of pictures need a decoder that gives [B, 3, H, W], got {shape_text(decoded.shape)}: use a "
                "prior that decodes to RGB, or rewards of the prior's own units."
            )
        return decoded, decoded.to(x0.dtype) * 0.5 + 0.5

    def _check_gradients(self, work: Work, values: list[list[tuple[int, torch.Tensor]]]) -> None:
        """Refuse a reward without gradient: one that gave none once every view has been asked about.

        It may be constant for some views, e.g. the first one when it compares with earlier ones, so a canvas of one
        view tells nothing.
        """
        for (view, _), row in zip(work, values, strict=True):
            for r, value in row:
                silent = self._silent[r]
                if silent is None:
                    continue
                if value.requires_grad:
                    self._silent[r] = None
                    continue
                silent.add(view)
                every = [i for i, read in enumerate(self._sources) if read or self.rewards[r].scores_first_view]
                if len(silent) == len(every) and len(self._sources) > 1:
                    raise TypeError(
                        f"the reward {self.rewards[r].name} gave no gradient for any view: compute it from x0 with "
                        "differentiable torch functions, or choose by it with SyncVC(search=n)."
                    )


def _scalar(reward: Reward, value: Any, like: torch.Tensor) -> torch.Tensor:
    try:
        value = torch.as_tensor(value, device=like.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"the reward {reward.name} must return a number, got {type(value).__name__}.") from error
    if value.numel() != 1:
        raise ValueError(f"the reward {reward.name} must return one number, got a tensor {shape_text(value.shape)}.")
    return value.reshape(())
