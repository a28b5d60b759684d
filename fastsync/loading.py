"""Loading what diffusers has in folders or on the hub."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch

from .errors import check_device, shown

Name = str | os.PathLike[str]


def load_pipeline(
    name_or_path: Name,
    controlnet: Name | Sequence[Name] | None,
    device: str | torch.device | None,
    dtype: torch.dtype | None,
) -> Any:
    """A pipeline on its device, with its ControlNets; arguments as of :meth:`fastsync.SyncPipeline.from_pretrained`."""
    import diffusers

    model = _name("name_or_path", name_or_path)
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    device = check_device("device", device)
    if dtype is None:
        dtype = torch.float16 if device.type == "cuda" else torch.float32
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise TypeError(f"dtype must be a floating-point torch.dtype, got {shown(dtype)}: pass torch.float32.")
    listed = controlnet if isinstance(controlnet, (list, tuple)) else [controlnet]
    if not listed:
        raise ValueError("controlnet must be one or more folders or models' names, got an empty list: pass None.")
    names = [] if controlnet is None else [_name("controlnet", name) for name in listed]
    nets = [_controlnet(name, dtype) for name in names]
    kind, parts = diffusers.DiffusionPipeline, {}
    if nets:
        # The class before the weights, so that these are loaded once, in the form in which they are needed.
        index = _loaded(diffusers.DiffusionPipeline.load_config, "model", model, "pipeline")
        kind = controlnet_pipeline(str(index.get("_class_name")), nets)
        parts = {"controlnet": nets[0] if len(nets) == 1 else nets}
    pipe = load(kind, "model", model, dtype, "pipeline", **parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)


def _controlnet(name: str, dtype: torch.dtype) -> Any:
    """A model from a folder or the hub, of the class that its own config names."""
    import diffusers

    config = _loaded(diffusers.ControlNetModel.load_config, "controlnet", name, "ControlNet")
    kind = getattr(diffusers, str(config.get("_class_name")), None)
    if kind is None:
        raise ValueError(
            f"controlnet {shown(name)} is of class {config.get('_class_name')!r}, which diffusers does not have: pass "
            "a ControlNet, or update diffusers."
        )
    return load(kind, "controlnet", name, dtype, "ControlNet")


def controlnet_pipeline(own: str, nets: Sequence[Any]) -> Any:
    """The class of diffusers' pipelines that has ControlNets beside the parts of the class named ``own``.

    Diffusers names it after that class, which is all that is known of it here: ``FluxPipeline`` and
    ``FluxControlNetPipeline``.

    Raises:
        ValueError: there is none, or it takes ControlNets of another class, or one only.
    """
    import diffusers

    classes = [type(net).__name__ for net in nets]
    inserted = "ControlNetUnion" if "ControlNetUnionModel" in classes else "ControlNet"
    plain = re.sub("ControlNet(Union)?", "", own)
    name = re.sub(r"(Img2Img|Inpaint)?Pipeline$", rf"{inserted}\1Pipeline", plain)
    found = getattr(diffusers, name, None)
    if found is None:
        raise ValueError(
            f"controlnet was given for {own}, and diffusers has no such pipeline with a ControlNet ({name}): leave "
            "controlnet out, or take a model of another family."
        )
    taken = [kind.__name__ for kind in found._get_signature_types()["controlnet"] if isinstance(kind, type)]
    single = [kind for kind in taken if "Multi" not in kind]
    other = [kind for kind in classes if kind not in single]
    if other:
        raise ValueError(
            f"{name} takes a ControlNet of class {single[0]}, got {other[0]}: pass one that was trained for this model."
        )
    if len(nets) > 1 and single == taken:
        raise ValueError(f"{name} takes one ControlNet, got {len(nets)}: pass one.")
    return found


def load(kind: Any, argument: str, model: str, dtype: torch.dtype, what: str, **parts: Any) -> Any:
    """A diffusers pipeline or model from a folder or the hub; ValueError in one sentence where it cannot be had."""
    import diffusers

    # diffusers renamed the argument; 0.42 is known to have the new name, and warns of the old one.
    release = tuple(int(n) for n in re.findall(r"\d+", diffusers.__version__)[:2])
    keyword = "dtype" if release >= (0, 42) else "torch_dtype"
    return _loaded(kind.from_pretrained, argument, model, what, **{keyword: dtype}, **parts)


def _loaded(get: Callable[..., Any], argument: str, model: str, what: str, **settings: Any) -> Any:
    """What ``get`` finds in a folder or on the hub."""
    try:
        return get(model, **settings)
    except (OSError, ValueError, AttributeError, ImportError) as error:
        # The libraries' own messages run over many sentences (all of them stay in the chained error).
        reason = " ".join(str(error).split()) or type(error).__name__
        reason = reason if len(reason) <= 120 else reason[:117] + "..."
        folder = os.path.isdir(model)
        found = (
            f"the folder holds no complete {what}"
            if folder
            else "it is neither a local folder nor available on the hub"
        )
        raise ValueError(
            f"{argument} {shown(model)} could not be loaded, {found} ({reason}): check the name, or use "
            "SyncPipeline.from_zoo()."
        ) from error


def _name(argument: str, value: Any) -> str:
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"{argument} must be a folder or a model's name, got {shown(value)}.")
    return os.fspath(value)
