"""What this installation can do here, and why it cannot do the rest: the report of `fastsync doctor`."""

import importlib
import importlib.metadata
import importlib.util
import json
import platform
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from . import zoo
from .canvases import WideCanvas
from .methods import SyncVC
from .ops import dispatch
from .priors import FunctionPrior
from .sampler import sample

PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "safetensors", "numpy", "pillow", "triton", "xformers")


def report() -> Iterator[tuple[str, str]]:
    """Lines of (what, how it stands), in the order to print them. The self-test is not part of it."""
    yield "fastsync", f"{importlib.metadata.version('fastsync')} in {Path(__file__).parent}"
    yield "python", f"{platform.python_version()} on {platform.platform()}"
    for name in PACKAGES:
        yield name, _version(name)
    for device in devices():
        yield f"device {device}", _describe(device)
    yield from _ops()
    if not zoo.names():
        yield "zoo", "no prior in this installation"
    for name in zoo.names():
        yield f"zoo {name}", zoo_line(name)


def devices() -> list[torch.device]:
    """The devices that PyTorch can compute on here, the CPU first."""
    found = [torch.device("cpu")]
    found += [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append(torch.device("mps"))
    return found


def zoo_line(name: str) -> str:
    """Window and weight of an embedded prior, as people read it."""
    folder = Path(zoo.path(name))
    side = json.loads((folder / "unet" / "config.json").read_text())["sample_size"]
    if (folder / "vae").is_dir():
        vae = json.loads((folder / "vae" / "config.json").read_text())
        side *= 2 ** (len(vae["block_out_channels"]) - 1)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return f"windows of {side}x{side} pixels, {size / 1e6:.1f} MB"


def self_test(device: torch.device) -> str:
    """Samples a tiny wide canvas with a made-up prior on `device`; returns how it went or raises what went wrong."""
    from diffusers import DDIMScheduler  # seconds to import

    start = time.perf_counter()
    prior = FunctionPrior(
        lambda x, t, cond: 0.9 * x, DDIMScheduler(clip_sample=False), view_shape=(1, 8, 8), device=device
    )
    canvas = WideCanvas(size=(8, 20), window=(8, 8), stride=6)
    out = sample(prior, canvas, SyncVC(), num_inference_steps=4, generator=torch.Generator().manual_seed(0))
    if out.canvas.shape != (1, 1, 8, 20) or not bool(out.canvas.isfinite().all()):
        raise RuntimeError(f"a canvas of shape {tuple(out.canvas.shape)} came out, or numbers that are not finite")
    return f"passed ({time.perf_counter() - start:.1f} s)"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _describe(device: torch.device) -> str:
    kinds = ["float32", "float16", "bfloat16"] + (["float64"] if device.type != "mps" else [])
    if device.type != "cuda":
        return f"{', '.join(kinds)}; {torch.get_num_threads()} threads" if device.type == "cpu" else ", ".join(kinds)
    properties = torch.cuda.get_device_properties(device)
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        kinds.remove("bfloat16")
    return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB; {', '.join(kinds)}"


def _ops() -> Iterator[tuple[str, str]]:
    """A line an op: on which device each backend runs it, and how far it then lies from the reference. Then why not."""
    results: dict[str, list[str]] = {op: [] for op in dispatch.OPS}
    reasons: dict[str, dict[str, None]] = {backend: {} for backend in dispatch.BACKENDS}
    for op, backend, status in dispatch.table():
        if not status.startswith("runs on"):
            results[op].append(f"{backend} -")
            reasons[backend][status] = None
            continue
        try:
            results[op].append(f"{backend} {dispatch.self_test(op, backend)}")
        except Exception as error:  # whatever a broken build raises
            results[op].append(f"{backend} BROKEN")
            reasons[backend][f"{op}: {error}"] = None
    for op, found in results.items():
        yield op, "; ".join(found)
    for backend, why in reasons.items():
        for reason in why:
            yield f"no {backend}", reason
