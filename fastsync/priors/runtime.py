"""How a prior's networks run while they sample; everything is as before afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Protocol

import torch

from .attention import Attention, AttentionSwitch
from .compiling import Compile, Compiler

CONTROLS = ("controlnet", "adapter")  # components that steer a denoiser


def networks_of(pipe: Any) -> list[Any]:
    """What a diffusers pipeline may ask at every step: its denoiser first, then what steers it, such as a ControlNet.

    That is any network which is neither an autoencoder nor one of the package transformers, where text and picture
    encoders come from; the denoiser is the largest.
    """
    found = {name: part for name, part in _modules(pipe).items() if not is_autoencoder(part) and not _encodes(part)}
    steer = [name for name in found if name in CONTROLS]
    ordered = [name for name in found if name not in steer]
    if len(ordered) > 1:
        ordered.sort(key=lambda name: -_size(found[name]))
    return [found[name] for name in (*ordered, *steer)]


def dtype_of(network: torch.nn.Module) -> torch.dtype:
    """What a network computes in: what it says itself, as diffusers' models do, or what its weights are in."""
    found = getattr(network, "dtype", None)
    if isinstance(found, torch.dtype):
        return found
    return next((p.dtype for p in network.parameters() if p.is_floating_point()), torch.float32)


def autoencoder_of(pipe: Any) -> Any:
    """A pipeline's autoencoder; None if it has none."""
    return next((part for part in _modules(pipe).values() if is_autoencoder(part)), None)


def _modules(pipe: Any) -> dict[str, torch.nn.Module]:
    parts = getattr(pipe, "components", None)
    if not isinstance(parts, dict):
        return {}  # no pipeline of diffusers: whoever learns from it says so
    return {name: part for name, part in parts.items() if isinstance(part, torch.nn.Module)}


def is_autoencoder(part: torch.nn.Module) -> bool:
    """Whether a module encodes and decodes."""
    return hasattr(part, "encode") and hasattr(part, "decode")


def _encodes(part: torch.nn.Module) -> bool:
    return any(kind.__module__.partition(".")[0] == "transformers" for kind in type(part).__mro__)


def _size(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def save_memory(pipe: Any) -> None:
    """Switch on what diffusers has for it in a pipeline: checkpointing, tiled decoding and, on a GPU, offload."""
    for network in networks_of(pipe):
        if getattr(network, "_supports_gradient_checkpointing", False):
            network.enable_gradient_checkpointing()
    vae = autoencoder_of(pipe)
    if hasattr(vae, "enable_tiling"):
        vae.enable_tiling()
    if pipe.device.type == "cuda":
        pipe.enable_model_cpu_offload(device=pipe.device)


class Switch(Protocol):
    """Something that is switched for the length of a run."""

    def on(self, device: torch.device) -> AbstractContextManager[None]:
        """Switched in here, and as before afterwards; ``device`` is where the network computes."""
        ...


class Runtime:
    """The switches of one set of networks. Made once and entered by every run, so that nothing compiles twice.

    Args:
        networks: models whose weights are frozen while they sample; the first one is the denoiser, which is compiled
            and whose attention is switched.
        vae: a model that accelerate's offload must not exchange for the networks while they sample: methods and rewards
            that decode need both in turn, and a backward pass through the decoder needs the networks' weights in place.
        compile: ``"off"``, ``"regional"`` or ``"max"``; see :class:`fastsync.priors.Compiler`.
        attention: ``"sdpa"``, ``"xformers"``, or None for what the denoiser has been set to.
        channels_last: keep the networks' convolution weights in this layout, which is faster on CPUs.
    """

    def __init__(
        self,
        networks: Sequence[torch.nn.Module] = (),
        *,
        vae: Any = None,
        compile: Compile = "off",
        attention: Attention | None = None,
        channels_last: bool = False,
    ) -> None:
        self.compile = compile
        switches: list[Switch] = []
        if vae is not None:
            switches.append(_KeepOnDevice(vae))
        switches += [_Frozen(network) for network in networks]
        if channels_last:
            switches += [_ChannelsLast(network) for network in networks]
        if attention is not None:
            switches.append(AttentionSwitch(networks[0], attention))
        if compile != "off":
            switches.append(Compiler(networks[0], compile))
        self._switches = switches

    @classmethod
    def of(cls, pipe: Any, **switches: Any) -> Runtime:
        """The switches of a pipeline's denoiser, and of what steers it."""
        return cls(networks_of(pipe), vae=autoencoder_of(pipe), **switches)

    def also(self, switch: Switch) -> Runtime:
        """The same with one switch more, which is entered last."""
        more = Runtime()
        more.compile, more._switches = self.compile, [*self._switches, switch]
        return more

    @contextmanager
    def on(self, device: torch.device) -> Iterator[None]:
        """All switches are on in here; ``device`` is where the networks compute."""
        with ExitStack() as stack:
            for switch in self._switches:
                stack.enter_context(switch.on(device))
            yield


class _Frozen:
    """No gradients for a model's weights: a backward pass to its input then costs about a forward pass."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.module = module

    @contextmanager
    def on(self, device: torch.device) -> Iterator[None]:
        # By name: accelerate's offload hooks put another parameter in a weight's place whenever they load it.
        names = {name for name, p in self.module.named_parameters() if p.requires_grad}
        self.module.requires_grad_(False)
        try:
            yield
        finally:
            for name, p in self.module.named_parameters():
                p.requires_grad_(name in names)


class _ChannelsLast:
    """A model's four-dimensional weights in the channels-last layout, each as it was afterwards."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.module = module

    @contextmanager
    def on(self, device: torch.device) -> Iterator[None]:
        layout = torch.channels_last
        changed = [p for p in self.module.parameters() if p.ndim == 4 and not p.is_contiguous(memory_format=layout)]
        for p in changed:
            p.data = p.data.contiguous(memory_format=layout)
        try:
            yield
        finally:
            for p in changed:
                p.data = p.data.contiguous()


class _KeepOnDevice:
    """accelerate's offload of whole models leaves the networks alone when this model is called."""

    def __init__(self, module: Any) -> None:
        self.module = module

    @contextmanager
    def on(self, device: torch.device) -> Iterator[None]:
        hook: Any = getattr(self.module, "_hf_hook", None)
        previous = getattr(hook, "prev_module_hook", None)
        if previous is not None:
            hook.prev_module_hook = None
        try:
            yield
        finally:
            if previous is not None:
                hook.prev_module_hook = previous
