"""What memory SyncVC takes at the size of Stable Diffusion 2.1, for a picture of 2048x512, computed without a GPU.

    python -m bench.memory [--output FILE]

And what decoding and encoding wider and wider pictures takes, whole and in strips.

The networks run on tensors that have a shape and no data (torch's FakeTensorMode), in float16, and the bytes of all
that is alive are added up. Weights are exact. Activations are what PyTorch's ops hand out and autograd keeps; what
kernels take for themselves (cuDNN's workspaces), the CUDA context and the allocator's gaps are not in it.
"""

import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import diffusers
import torch
import transformers
import typer
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from bench.machine import RESULTS, describe, write_json
from bench.models import BUILDERS
from fastsync import zoo
from fastsync.priors.codecs import kl, maps

LATENTS = (64, 256)  # of the picture
WINDOW = (64, 64)
TEXT = (77, 1024)
VIEWS = range(1, 6)  # five windows with an overlap of 128 pixels
# Windows side by side, a quarter of each under the next. The larger network's strips are too many for the widest one.
CANVASES = {"SD 2.1 in float16 on a GPU": (4, 16), "scenes in float32 on a CPU": (4, 16, 64)}
LIMIT = 8e9  # bytes: what an 8 GiB card has less 0.6 GB, for the CUDA context and what else is not counted

# The published configurations, as far as they differ from the defaults of the libraries' classes.
_VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "sample_size": 512,
}
_TEXT_ENCODER = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 23,
    "num_attention_heads": 16,
    "hidden_act": "gelu",
}


class Tracker(TorchDispatchMode):
    """Bytes of the tensors that ops make while it is entered: ``alive`` now, and the ``peak``.

    A storage counts once, however many tensors show it, from the op that made it until nothing refers to it. Storages
    that were there before do not count.
    """

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in _tensors((args, kwargs)):
            self._meet(tensor, made_here=False)
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            self._meet(tensor, made_here=True)
        self.peak = max(self.peak, self.alive)
        return result

    def _meet(self, tensor: torch.Tensor, made_here: bool) -> None:
        storage = tensor.untyped_storage()
        if id(storage) not in self._known:
            self._known.add(id(storage))
            size = storage.nbytes() if made_here else 0
            self.alive += size
            weakref.finalize(storage, self._forget, id(storage), size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.alive -= size


def _tensors(values: Any) -> Iterator[torch.Tensor]:
    return (value for value in tree_iter(values) if isinstance(value, torch.Tensor))


def peak_of(work: Callable[[], Any]) -> int:
    """Peak bytes of what ``work`` allocates."""
    with Tracker() as tracker:
        result = work()
    del result
    return tracker.peak


def evaluation(unet: Any, views: int, window: tuple[int, int], text: tuple[int, int], backward: bool) -> int:
    """Peak bytes of the UNet at ``views`` views and both halves of guidance, and of going back to its input."""
    dtype = next(unet.parameters()).dtype
    x = torch.zeros(views, unet.config.in_channels, *window, requires_grad=backward)
    states = torch.zeros(2 * views, *text, dtype=dtype)
    times = torch.full((2 * views,), 500)

    def work() -> torch.Tensor:
        raw = unet(torch.cat([x, x]).to(dtype), times, encoder_hidden_states=states, return_dict=False)[0]
        return torch.autograd.grad(raw, x, torch.ones_like(raw))[0] if backward else raw

    with torch.set_grad_enabled(backward):
        return peak_of(work)


class Elsewhere:
    """Lines that are kept on another device, or in a file: here, what of them is on this device while it is read."""

    def __init__(self, shape: Sequence[int], like: torch.Tensor, axis: int) -> None:
        self.shape, self.like, self.axis = shape, like, axis

    def read(self, start: int, stop: int) -> torch.Tensor:
        shape = list(self.shape)
        shape[self.axis] = stop - start
        return self.like.new_empty(shape)

    def write(self, start: int, cells: torch.Tensor) -> None:
        pass

    def close(self) -> None:
        pass


class OnDevice(maps.Maps):
    """The maps of a picture, of which those outside of the budget take nothing."""

    def outside(self, shape: Sequence[int]) -> maps.Store:
        return Elsewhere(shape, self.like, self.cut.axis)


def canvases(vae: Any, counts: Sequence[int], window: int, budget: int) -> dict[str, dict[str, int]]:
    """Peak bytes of decoding and encoding pictures so many windows wide, whole and in strips.

    Args:
        vae: an AutoencoderKL.
        counts: how many windows.
        window: cells along a side of a window.
        budget: bytes of the maps that stay on the device in strips.

    Returns:
        By number of windows; beside the peaks, in which what is given is not counted and what is made is, the bytes of
        the latents and the pixels.
    """
    found = {}
    dtype, cell = next(vae.parameters()).dtype, 2 ** (len(vae.config.block_out_channels) - 1)
    make = partial(OnDevice, budget=budget)
    for count in counts:
        width = window + (count - 1) * 3 * window // 4
        z = torch.zeros(1, vae.config.latent_channels, window, width, dtype=dtype)
        pixels = torch.zeros(1, 3, cell * window, cell * width, dtype=dtype)
        with torch.no_grad():
            found[str(count)] = {
                "latents": z.nbytes,
                "pixels": pixels.nbytes,
                "decode": peak_of(partial(vae.decode, z)),
                "decode in strips": peak_of(partial(kl.decode, vae, z, make=make)),
                "encode": peak_of(partial(vae.encode, pixels)),
                "encode in strips": peak_of(partial(kl.encode, vae, pixels, make=make)),
            }
    return found


def main(output: Annotated[Path, typer.Option(help="Where the result goes.")] = RESULTS / "memory_sd21.json") -> None:
    """Adds up weights, SyncVC's network calls and the decode."""
    with FakeTensorMode():
        torch.set_default_dtype(torch.float16)  # modules without data cannot be converted later
        unet: Any = BUILDERS["SD 2.1"]()
        vae: Any = diffusers.AutoencoderKL(**_VAE)
        text_encoder: Any = transformers.CLIPTextModel(transformers.CLIPTextConfig(**_TEXT_ENCODER))
        torch.set_default_dtype(torch.float32)
        for module in (unet, vae, text_encoder):
            module.eval().requires_grad_(False)
        weights = {"UNet": _size(unet), "text encoder": _size(text_encoder), "VAE": _size(vae)}
        calls = {}
        for views in VIEWS:
            plain = {"forward": evaluation(unet, views, WINDOW, TEXT, backward=False)}
            with_gradient = evaluation(unet, views, WINDOW, TEXT, backward=True)
            unet.enable_gradient_checkpointing()
            checkpointed = evaluation(unet, views, WINDOW, TEXT, backward=True)
            unet.disable_gradient_checkpointing()
            calls[str(views)] = {**plain, "gradient": with_gradient, "checkpointed": checkpointed}
        latents = torch.zeros(1, vae.config.latent_channels, *LATENTS, dtype=torch.float16)
        with torch.no_grad():
            decode = {
                "plain": peak_of(lambda: vae.decode(latents, return_dict=False)[0]),
                "tiled": peak_of(lambda: kl.decode(vae, latents, make=partial(OnDevice, budget=maps.GPU_BUDGET))),
            }
        scenes: Any = diffusers.AutoencoderKL.from_config(
            diffusers.AutoencoderKL.load_config(zoo.path("scenes"), subfolder="vae")
        )
        sizes = ((vae, WINDOW[0], maps.GPU_BUDGET), (scenes, 16, maps.BUDGET["cpu"]))
        wider = {
            name: canvases(model, counts, window, budget)
            for (name, counts), (model, window, budget) in zip(CANVASES.items(), sizes, strict=True)
        }
    settings = {"picture": [2048, 512], "dtype": "float16", "limit": LIMIT}
    figures = {"weights": weights, "calls": calls, "decode": decode, "canvases": wider}
    write_json(output, {**describe(), "settings": settings, **figures})
    typer.echo(f"weights {weights}\ndecode {decode}")
    for count, peaks in calls.items():
        typer.echo(f"{count} views: {peaks}")
    for name, account in wider.items():
        typer.echo(f"{name}, windows wide: {account}")
    typer.echo(f"written to {output}")


def _size(module: nn.Module) -> int:
    tensors = [*module.parameters(), *module.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


if __name__ == "__main__":
    typer.run(main)
