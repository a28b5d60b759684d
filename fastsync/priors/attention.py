"""What a pipeline's network computes its attention with, for the length of a run."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import nn

from ..errors import check_choice

Attention = Literal["sdpa", "xformers"]
# Processors that compute the same by other means, and nothing beside it.
_EXCHANGEABLE = {
    f"{kind}{version}"
    for kind in ("AttnProcessor", "AttnAddedKVProcessor", "XFormersAttnProcessor", "XFormersAttnAddedKVProcessor")
    for version in ("", "2_0")
} | {"SlicedAttnProcessor", "SlicedAttnAddedKVProcessor", "FusedAttnProcessor2_0"}
KINDS: tuple[Attention, ...] = ("sdpa", "xformers")


class AttentionSwitch:
    """A network whose attention is computed as asked while ``on()`` is entered, and as its owner set it otherwise.

    Args:
        network: a diffusers model with ``Attention`` layers.
        kind: ``"sdpa"`` (torch's own scaled_dot_product_attention) or ``"xformers"``.

    Raises:
        ValueError: an unknown ``kind``, xformers cannot be imported, or a network without such layers.
    """

    def __init__(self, network: nn.Module, kind: Attention) -> None:
        self.kind: Attention = check_choice("attention", kind, KINDS)
        if kind == "xformers":
            try:
                importlib.import_module("xformers.ops")
            except (ImportError, OSError) as error:  # OSError: one that was built for another torch
                reason = " ".join(str(error).split())
                raise ValueError(
                    f"attention='xformers' needs the package xformers, which cannot be imported ({reason}): run pip "
                    "install xformers, or use attention='sdpa', which torch brings along."
                ) from error
        from diffusers.models import attention_processor as processors

        plain, added = {
            "sdpa": (processors.AttnProcessor2_0, processors.AttnAddedKVProcessor2_0),
            "xformers": (processors.XFormersAttnProcessor, processors.XFormersAttnAddedKVProcessor),
        }[kind]
        layers = [layer for layer in network.modules() if isinstance(layer, processors.Attention)]
        for layer in layers:
            if type(layer.processor).__name__ not in _EXCHANGEABLE:
                raise ValueError(
                    f"attention={kind!r} would replace {type(layer.processor).__name__} of {type(network).__name__}, "
                    "which computes more than plain attention: leave it out, and set what the model itself offers "
                    "(set_attention_backend in diffusers)."
                )
        # Made once: a compiled network takes new processors for new code.
        self._layers: list[tuple[Any, Any]] = [
            (layer, plain() if layer.added_kv_proj_dim is None else added()) for layer in layers
        ]
        if not self._layers:
            raise ValueError(
                f"attention={kind!r} switches diffusers' Attention layers, and {type(network).__name__} has none: "
                "leave it out, and set what the model itself offers (set_attention_backend in diffusers)."
            )

    @contextmanager
    def on(self, device: torch.device) -> Iterator[None]:
        """Attention is computed as asked in here; ``device`` is where.

        Raises:
            ValueError: xformers was asked for elsewhere than on a GPU.
        """
        if self.kind == "xformers" and device.type != "cuda":
            raise ValueError(
                f"attention='xformers' needs the network on a CUDA GPU, and it is on {device}: move the pipeline "
                "there, or use attention='sdpa'."
            )
        with ExitStack() as stack:
            for layer, processor in self._layers:
                stack.callback(layer.set_processor, layer.processor)
                layer.set_processor(processor)
            yield
