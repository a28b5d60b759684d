"""What Stable Diffusion pipelines share whose network sees a picture of each view, such as its depth."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from ..conditions import Conditions
from ..errors import check_tensor, shape_text
from .diffusers_unet import DiffusersPrior


class ControlledPrior(DiffusersPrior):
    """A prior whose conditions are ``text`` [N, L, D] and ``control`` [N, c, H, W], N being 1 for all views alike.

    ``control_shape`` is (c, H, W). Both of guidance's halves see the control.
    """

    takes_control = True
    known_conditions: tuple[str, ...] = ("text", "control")
    prepared_name: ClassVar[str] = "control"  # of the control once it is as the network gets it

    @property
    def control_shape(self) -> tuple[int, int, int]:
        """(c, H, W) of a view's control."""
        raise NotImplementedError

    def with_control(self, cond: Any, uncond: Any, control: torch.Tensor) -> tuple[Conditions, Conditions | None]:
        """Text conditions with what the network is shown of the views, as ``sample`` takes them.

        Args:
            cond, uncond: text embeddings [N or 1, L, D], what ``encode_prompt`` gave; ``uncond`` None without guidance.
            control: [N, c, H, W] or [1, c, H, W] in [0, 1], a view's size in pixels (``window_pixels``). One channel
                is depth, from 0 (background) to 1 (nearest), linear in inverse depth; a ControlNet takes pictures of
                its own number of channels as well.

        Returns:
            Conditions ``text`` and ``control`` of either half, the control being the same tensor in both.

        Raises:
            TypeError, ValueError: a control of another shape, size or range; conditions that have one already.
        """
        for name, text in (("cond", cond), ("uncond", uncond)):
            if not isinstance(text, torch.Tensor) and (name == "cond" or text is not None):
                raise TypeError(
                    f"{name} must be text embeddings, got {type(text).__name__}: pass what prior.encode_prompt(prompt) "
                    "gives."
                )
        height, width = self.window_pixels
        check_tensor("control", control)
        if control.ndim != 4 or control.shape[2:] != (height, width) or control.shape[1] not in self._channels:
            shapes = " or ".join(f"[N, {channels}, {height}, {width}]" for channels in self._channels)
            raise ValueError(
                f"control must be {shapes}, a view's size in pixels, got {shape_text(control.shape)}: render depth, or "
                "crop the picture, at that size."
            )
        low, high = (float(limit) for limit in control.aminmax())
        if low < 0 or high > 1:
            raise ValueError(
                f"control must be in [0, 1], depth from 0 (background) to 1 (nearest), got {low:g} to {high:g}: scale "
                "inverse depth, or the picture, to that range."
            )
        made = self._control(control.to(self.device)).to(cond.dtype)
        told = Conditions({"text": cond, "control": made})
        return told, None if uncond is None else told.updated(text=uncond)

    def prepare_conditions(
        self, cond: Conditions | None, uncond: Conditions | None, num_views: int
    ) -> tuple[Conditions | None, Conditions | None]:
        """Check the controls, and compute once a view what the network makes of them alone."""
        control = self._parts(cond)[1]
        other = control if uncond is None else self._parts(uncond)[1]
        prepared = self._prepared(control)
        # What both halves share is computed once.
        prepared_uncond = prepared if other is control else self._prepared(other)
        assert cond is not None  # _parts() has looked
        told = cond.renamed("control", self.prepared_name, prepared)
        told_uncond = None if uncond is None else uncond.renamed("control", self.prepared_name, prepared_uncond)
        return super().prepare_conditions(told, told_uncond, num_views)

    def _parts(self, cond: Conditions | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Text and control, prepared or not."""
        need = f" and control {self._shape}: pass what prior.with_control(*prior.encode_prompt(prompt), control) gives"
        names = [name for name in ("control", self.prepared_name) if cond is not None and name in cond]
        if cond is None or not names:
            raise ValueError(f"cond is {cond!r}, but this pipeline's network needs text embeddings{need}.")
        return self.checked(cond, need)["text"], cond[names[0]]

    @property
    def _shape(self) -> str:
        return f"[N, {', '.join(map(str, self.control_shape))}]"

    @property
    def _channels(self) -> tuple[int, ...]:
        """How many channels ``with_control`` takes: the one of depth, and others."""
        return (1,)

    def _control(self, control: torch.Tensor) -> torch.Tensor:
        """A checked control [N, c, H, W] as one [N, *control_shape]."""
        raise NotImplementedError

    def _prepared(self, control: torch.Tensor) -> torch.Tensor:
        """A control [N, *control_shape], checked for that, as ``network`` is to get it."""
        if control.shape[1:] != self.control_shape:
            raise ValueError(
                f"the control must be {self._shape}, got {shape_text(control.shape)}: make it with prior.with_control, "
                "or at that size."
            )
        return control
