"""All of a pipeline that must be bit for bit the same after something has looked at it."""

from __future__ import annotations

import random
import types
from typing import Any

import numpy as np
import torch

SIMPLE = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size)
MODULE_DICTS = {"_parameters", "_buffers", "_modules"}
# transformers adds these to a text encoder when it is first asked for hidden states, whoever asks.
CAPTURING = ("transformers.utils.output_capturing", "_output_capturing_hooks_installed")


def snapshot(pipe: Any, *generators: torch.Generator) -> dict[str, Any]:
    """Name -> value of everything that its owner, or the owner of ``generators``, could miss.

    Held are: the pipeline's own ``__dict__`` and config; of each module weights and buffers (values, dtypes, strides,
    devices, identity, ``requires_grad``, ``grad``, versions), hooks, attention processors and every plain attribute;
    of each scheduler its whole ``__dict__``; the states of the global generators of torch, NumPy and Python, and of
    ``generators``. Values are copied, objects that cannot be compared are held by identity.

    Some networks make tables on their first call (Z-Image's positions, video autoencoders' caches): take the snapshot
    of a pipeline that has run once, by ``running.spied``.
    """
    found: dict[str, Any] = {
        "global torch generator": torch.get_rng_state(),
        "global numpy generator": repr(np.random.get_state()),
        "global python generator": hash(random.getstate()),
    }
    for i, generator in enumerate(generators):
        found[f"generator {i}"] = generator.get_state()
    if torch.cuda.is_available():
        for i, state in enumerate(torch.cuda.get_rng_state_all()):
            found[f"global cuda generator {i}"] = state
    found["grad mode"] = torch.is_grad_enabled()
    found["default dtype"] = torch.get_default_dtype()
    seen: dict[int, str] = {}
    for key, value in vars(pipe).items():
        found |= held(value, f"pipe.{key}", seen)
    found["pipe: class"] = type(pipe)
    return found


def held(value: Any, place: str, seen: dict[int, str]) -> dict[str, Any]:
    """The parts of ``value`` by name; an object seen before is held by the name it was first seen under."""
    if isinstance(value, SIMPLE):
        return {place: (type(value).__name__, repr(value))}
    if isinstance(value, torch.Tensor):
        return tensor(value, place)
    if isinstance(value, np.ndarray):
        return {place: (value.dtype, value.shape, value.tobytes())}
    if id(value) in seen:
        return {place: f"the same as {seen[id(value)]}"}
    seen[id(value)] = place
    if isinstance(value, torch.nn.Module):
        return module(value, place, seen)
    if isinstance(value, dict) or type(value).__name__ in ("FrozenDict", "mappingproxy"):
        found = {f"{place}: keys": [repr(key) for key in value]}
        for key, item in value.items():
            found |= held(item, f"{place}[{key!r}]", seen)
        return found
    if isinstance(value, (list, tuple)) or type(value).__name__ == "deque":
        found = {f"{place}: length": len(value)}
        for i, item in enumerate(value):
            found |= held(item, f"{place}[{i}]", seen)
        return found
    if isinstance(value, (set, frozenset)):
        return {place: sorted(map(repr, value))}
    if isinstance(value, torch.Generator):
        return {f"{place}: state": value.get_state()}
    found = {f"{place}: object": id(value), f"{place}: class": type(value)}
    if isinstance(value, (type, types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType)):
        # Bound methods are made anew by each access; what they are bound to is what counts.
        bound = getattr(value, "__self__", None)
        return {place: (type(value), id(bound), getattr(value, "__qualname__", repr(value)))}
    if type(value).__module__.startswith(("transformers", "tokenizers", "torch.")):
        return found  # tokenizers and their like
    for key, item in getattr(value, "__dict__", {}).items():
        found |= held(item, f"{place}.{key}", seen)
    return found


def tensor(value: torch.Tensor, place: str) -> dict[str, Any]:
    """A tensor's identity, form and value; ``meta`` ones have no value."""
    found: dict[str, Any] = {
        f"{place}: tensor": id(value),
        f"{place}: form": (value.dtype, value.device, tuple(value.shape)),
        f"{place}: requires_grad": value.requires_grad,
    }
    if value.device.type != "meta":
        found[f"{place}: strides"] = value.stride()
        found[f"{place}: value"] = value.detach().clone()
    if value.is_leaf:
        found[f"{place}: grad"] = None if value.grad is None else value.grad.clone()
    return found


def module(value: torch.nn.Module, place: str, seen: dict[int, str]) -> dict[str, Any]:
    """Weights, buffers, hooks and plain attributes of a module, then of those in it."""
    found: dict[str, Any] = {f"{place}: object": id(value), f"{place}: class": type(value)}
    for kind in ("_parameters", "_buffers"):
        for key, item in vars(value)[kind].items():
            found |= held(item, f"{place}.{key}", seen)
    for key, item in vars(value).items():
        if key in MODULE_DICTS or key == CAPTURING[1] or (key == "_diffusers_hook" and not item.hooks):
            continue  # diffusers makes an empty registry when it is first asked for a cache context
        if key.endswith("hooks") or "_hooks_" in key:
            found[f"{place}: {key}"] = hooks(item) if isinstance(item, dict) else repr(item)
        else:
            found |= held(item, f"{place}.{key}", seen)
    for key, item in value._modules.items():
        found |= held(item, f"{place}.{key}", seen)
    return found


def hooks(registered: dict[int, Any]) -> list[int]:
    """Identities of the hooks, in their order."""
    return [id(hook) for hook in registered.values() if getattr(hook, "__module__", "") != CAPTURING[0]]


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Where two snapshots differ, as names."""

    def same(a: Any, b: Any) -> bool:
        if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
            return a.dtype == b.dtype and a.shape == b.shape and bytes_of(a) == bytes_of(b)
        return a is b or (type(a) is type(b) and bool(a == b))

    missing = [f"{name}: gone" for name in before.keys() - after.keys()]
    new = [f"{name}: new" for name in after.keys() - before.keys()]
    return sorted(missing + new + [n for n in before.keys() & after.keys() if not same(before[n], after[n])])


def bytes_of(value: torch.Tensor) -> bytes:
    """Bit for bit: NaNs equal themselves, and zeros differ from minus zeros."""
    return bytes(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())


def assert_same(before: dict[str, Any], after: dict[str, Any], *, ignore: tuple[str, ...] = ()) -> None:
    """Fail with the names of what changed; names that start with one of ``ignore`` may."""
    changed = [name for name in differences(before, after) if not name.startswith(ignore or ("\0",))]
    assert not changed, f"{len(changed)} things changed: {changed[:12]}"
