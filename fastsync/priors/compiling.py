"""torch.compile of a pipeline's network, for the length of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import nn

from ..errors import check_choice

Compile = Literal["off", "regional", "max"]
MODES: tuple[Compile, ...] = ("off", "regional", "max")
# What UNets repeat beside what diffusers' models say that they do; a compiled block serves all its twins. Networks
# that say nothing have their blocks in lists.
_BLOCKS = ("ResnetBlock2D", "BasicTransformerBlock", "Downsample2D", "Upsample2D")
# All blocks of all shapes share one code object, for which dynamo's own limits are 8 and 256: some batch sizes of a
# UNet of Stable Diffusion's size.
_SHAPES = 4096


class Compiler:
    """A network that runs compiled while ``on()`` is entered, and as it was at all other times.

    Shapes are static: call it with a few batch sizes only (``fixed_batches`` of :func:`fastsync.sample`), since each
    costs a compilation, forward and backward.

    Args:
        network: a diffusers model.
        mode: ``"regional"`` compiles its repeated blocks, each kind and shape once (seconds to a minute), ``"max"`` the
            whole network with the slowest and best settings (minutes; CUDA graphs on a GPU).

    Raises:
        ValueError: an unknown mode, or ``"regional"`` of a network whose repeated blocks are not known.
    """

    def __init__(self, network: nn.Module, mode: Compile) -> None:
        check_choice("compile", mode, MODES)
        settings: dict[str, Any] = {"dynamic": False, "fullgraph": True}
        modules: list[nn.Module] = []
        if mode == "regional":
            blocks = {*_BLOCKS, *(getattr(network, "_repeated_blocks", None) or ())}
            modules = [module for module in network.modules() if type(module).__name__ in blocks]
            if not modules:  # what stands in a list of its own
                lists = [part for part in network.children() if isinstance(part, nn.ModuleList)]
                modules = [block for part in lists for block in part if len({type(other) for other in part}) == 1]
            if not modules:
                raise ValueError(
                    f"compile='regional' compiles the blocks that a network repeats, and those of "
                    f"{type(network).__name__} are not known: use compile='max' or 'off'."
                )
        if mode == "max":
            modules = [network]
            settings["mode"] = "max-autotune" if next(network.parameters()).is_cuda else "default"
        self.mode = mode
        self._calls: list[tuple[nn.Module, Callable[..., Any]]] = [
            (module, torch.compile(module._call_impl, **settings)) for module in modules
        ]

    @contextmanager
    def on(self, device: torch.device | None = None) -> Iterator[None]:
        """Calls of the network are compiled in here, wherever it computes.

        Raises:
            ValueError: accelerate's offload has hooks in what would be compiled.
        """
        if any(hasattr(part, "_hf_hook") for module, _ in self._calls for part in module.modules()):
            raise ValueError(
                f"compile={self.mode!r} cannot compile the hooks by which accelerate offloads the network: use "
                f"compile='off'{'' if self.mode == 'regional' else ' (or regional, with enable_model_cpu_offload)'}, "
                "or a pipeline that stays on its device."
            )
        name = "recompile_limit" if hasattr(torch._dynamo.config, "recompile_limit") else "cache_size_limit"
        with ExitStack() as stack:
            stack.enter_context(torch._dynamo.config.patch({name: _SHAPES, f"accumulated_{name}": _SHAPES}))
            for module, call in self._calls:
                stack.callback(setattr, module, "_compiled_call_impl", module._compiled_call_impl)
                module._compiled_call_impl = call
            yield
