"""What a reward is to the methods."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch

from ..canvases.base import LinearCanvas

RewardFunction = Callable[[torch.Tensor, Sequence[torch.Tensor], int], Any]


class Reward:
    """A score of a clean view, the higher the better: ``reward(x0_i, earlier, i) -> scalar``.

    ``x0_i`` is view i's clean estimate and ``earlier`` are those of the views worked before it at the same time. Any
    function of this signature is a reward too: it is given [C, h, w] in the prior's own units and asked about every
    view. A subclass says what it needs:

    Attributes:
        pixels: it is given pictures [3, H, W] instead, decoded by the prior, with gradient. They lie about [0, 1] and
            are not clamped, which would cut the gradient off.
        reads_earlier: it looks at ``earlier`` (an empty list otherwise, and views need not wait for one another).
        scores_first_view: it scores views that have no earlier ones. Without such a reward the first view gets no
            control.
        differentiable: it has a gradient in ``x0_i``. Without one only ``SyncVC(search=n)`` can use it.
    """

    pixels: ClassVar[bool] = False
    reads_earlier: ClassVar[bool] = True
    scores_first_view: ClassVar[bool] = True
    differentiable: ClassVar[bool] = True

    def begin(self, canvas: LinearCanvas, order: Sequence[int]) -> Reward:
        """Called once a run, with its canvas and the views in work order; returns what is asked during the run."""
        return self

    def __call__(self, x0: torch.Tensor, earlier: Sequence[torch.Tensor], i: int) -> Any:
        """The score of view i, a scalar."""
        raise NotImplementedError

    @property
    def name(self) -> str:
        """What messages call it."""
        return type(self).__name__

    def __repr__(self) -> str:
        settings = {k: v for k, v in vars(self).items() if isinstance(v, (int, float, str)) and not k.startswith("_")}
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in settings.items())})"


class FunctionReward(Reward):
    """Any function ``reward(x0_i [C, h, w], earlier, i) -> scalar``."""

    def __init__(self, function: RewardFunction) -> None:
        self.function = function

    def __call__(self, x0: torch.Tensor, earlier: Sequence[torch.Tensor], i: int) -> Any:
        """What the function says."""
        return self.function(x0, earlier, i)

    @property
    def name(self) -> str:
        """The function's own."""
        return getattr(self.function, "__name__", type(self.function).__name__)


def as_reward(reward: Reward | RewardFunction) -> Reward:
    """The reward itself, or a function as one."""
    return reward if isinstance(reward, Reward) else FunctionReward(reward)
