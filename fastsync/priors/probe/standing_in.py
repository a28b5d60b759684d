"""What stands in a pipeline's copy for its networks and its scheduler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


class StandIn:
    """Looks like a module (class, attributes), but calls go to ``answer``, and nothing is ever set in the module.

    Args:
        real: the module.
        answer: is called in its place.

    Attributes:
        attributes_set: names of the attributes that the pipeline has set.
    """

    attributes_set: list[str]

    def __init__(self, real: torch.nn.Module, answer: Callable[..., Any]) -> None:
        vars(self).update(_real=real, _answer=answer, attributes_set=[])

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return type(self._real)

    def __getattr__(self, name: str) -> Any:
        if name == "_real":  # of a copy that is being made
            raise AttributeError(name)
        return getattr(self._real, name)

    def __setattr__(self, name: str, value: Any) -> None:
        vars(self)[name] = value
        self.attributes_set.append(name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._answer(*args, **kwargs)

    def to(self, *args: Any, **kwargs: Any) -> StandIn:
        """Nothing is moved or cast; the dtype is noted."""
        dtype = kwargs.get("dtype", next((value for value in args if isinstance(value, torch.dtype)), None))
        if dtype is not None:
            vars(self)["dtype"] = dtype
        return self

    @property
    def cast_to(self) -> torch.dtype | None:
        """The dtype that the pipeline has asked for by ``to``."""
        found: torch.dtype | None = vars(self).get("dtype")
        return found


class StepOutput(tuple[torch.Tensor, torch.Tensor]):
    """What a scheduler's step returns, in both forms that pipelines take it in."""

    @property
    def prev_sample(self) -> torch.Tensor:
        return self[0]

    @property
    def pred_original_sample(self) -> torch.Tensor:
        return self[1]
