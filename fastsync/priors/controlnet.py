"""Stable Diffusion pipelines with a ControlNet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..conditions import Conditions
from ..diffusion import SolverChoice
from ..errors import check_number
from .controlled import ControlledPrior
from .offload import load_offloaded
from .registry import Unfit, built_in
from .reuse import DeepFeatures
from .runtime import Runtime
from .shared_attention import NeighbourLists


@built_in("StableDiffusionControlNetPipeline")
class ControlNetPrior(ControlledPrior):
    """The prior inside a ``StableDiffusionControlNetPipeline`` with one ControlNet, on its device, in its dtype.

    Conditions are ``text`` [N, L, D] and ``control`` [N, 3, H, W], pictures in [0, 1] of a view's size in pixels, as
    the ControlNet was trained on; ``with_control`` takes such pictures, and depth. What the ControlNet makes of a
    picture before it sees a noisy view is computed once a view and run.

    Args:
        pipe: e.g. SD 1.5 with ``lllyasviel/control_v11f1p_sd15_depth``.
        conditioning_scale: what the ControlNet's residuals are multiplied by.
        window, runtime, solver, neighbours: as in :class:`fastsync.DiffusersPrior`.

    Raises:
        ValueError: for a pipeline of another class, several ControlNets, or one of another kind.
    """

    _has_controlnet = True
    known_conditions = ("text", "control", "embedded")
    prepared_name = "embedded"

    def __init__(
        self,
        pipe: Any,
        *,
        conditioning_scale: float = 1.0,
        window: tuple[int, int] | None = None,
        runtime: Runtime | None = None,
        solver: SolverChoice = "auto",
        neighbours: NeighbourLists | None = None,
    ) -> None:
        self.conditioning_scale = check_number("conditioning_scale", conditioning_scale)
        super().__init__(pipe, window=window, runtime=runtime, solver=solver, neighbours=neighbours)
        kind = type(self._controlnet).__name__
        if kind != "ControlNetModel":
            raise Unfit(
                f"{type(pipe).__name__} has a ControlNet of class {kind}, and one of class ControlNetModel is needed: "
                "pass a StableDiffusionControlNetPipeline with a single ControlNet, e.g. for depth."
            )
        config, text_width = self._controlnet.config, pipe.unet.config.cross_attention_dim
        if config.global_pool_conditions:
            raise Unfit(
                "the ControlNet pools its condition over the picture (global_pool_conditions, as `shuffle` does), so "
                "it cannot place anything: pass one for depth."
            )
        if config.cross_attention_dim != text_width:
            raise ValueError(
                f"the ControlNet reads text states of width {config.cross_attention_dim} and the UNet of {text_width}: "
                "pass a ControlNet that was trained for this version of Stable Diffusion."
            )
        self._as_it_is = torch.nn.Identity()

    @property
    def control_shape(self) -> tuple[int, int, int]:
        """(3, H, W)."""
        return (self._controlnet.config.conditioning_channels, *self.window_pixels)

    def deep_features(self) -> DeepFeatures:
        """Not with a ControlNet, which is half of the network.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "feature_reuse=True leaves out the UNet's deeper levels, to which a ControlNet adds its own: use "
            "feature_reuse=False."
        )

    @property
    def _controlnet(self) -> Any:
        """The model itself where it has been compiled."""
        return getattr(self.pipe.controlnet, "_orig_mod", self.pipe.controlnet)

    @property
    def _channels(self) -> tuple[int, ...]:
        return tuple(sorted({1, self.control_shape[0]}))

    def _control(self, control: torch.Tensor) -> torch.Tensor:
        return control.expand(-1, self.control_shape[0], -1, -1)

    def _prepared(self, control: torch.Tensor) -> torch.Tensor:
        """The embedding [N, F, h, w] of pictures, one after the other: their maps are as large as the pictures."""
        control, net = super()._prepared(control), self._controlnet
        load_offloaded(net)
        with torch.no_grad():
            pictures = self._flipped(control.to(self.device, net.dtype)).split(1)
            return self._flipped(torch.cat([net.controlnet_cond_embedding(picture) for picture in pictures]))

    def _flipped(self, control: torch.Tensor) -> torch.Tensor:
        """With channels as the ControlNet's own forward is about to flip them, whatever they are."""
        return control.flip(1) if self._controlnet.config.controlnet_conditioning_channel_order == "bgr" else control

    def _conditioned(self, x: torch.Tensor, t: torch.Tensor, cond: Conditions | None) -> torch.Tensor:
        """ControlNet and UNet at noisy views x [B, C, h, w] and their controls, embedded or not."""
        text, control = self._parts(cond)
        embedded = cond is not None and self.prepared_name in cond
        # Asked once, because a model looks through its weights for it.
        dtype, of_unet = self._controlnet.dtype, self.dtype
        with self._embedding_known(embedded):
            down, middle = self.pipe.controlnet(
                x.to(dtype),
                t,
                encoder_hidden_states=text.to(dtype),
                controlnet_cond=control.to(dtype),
                conditioning_scale=self.conditioning_scale,
                return_dict=False,
            )
        return self._unet(
            x,
            t,
            text,
            down_block_additional_residuals=[residual.to(of_unet) for residual in down],
            mid_block_additional_residual=middle.to(of_unet),
        )

    @contextmanager
    def _embedding_known(self, known: bool) -> Iterator[None]:
        """Within, the ControlNet takes its control as it is where that is embedded already."""
        net = self._controlnet
        own = net.controlnet_cond_embedding
        if known:
            net.controlnet_cond_embedding = self._as_it_is
        try:
            yield
        finally:
            net.controlnet_cond_embedding = own
