"""Texture coordinates: the mesh's own where they serve, else xatlas's, else box projection."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from ..errors import check_number
from ..files import replacing
from .boxes import box_projection
from .meshes import Mesh, load, need
from .texels import overlap

TOLERATED = 0.01  # share of the texture that may be used twice, and of the surface that may have no place in it
RASTER = (1024, 1024)  # on which overlaps are looked for
PACKING = 1  # goes up when unwrap_worker.py packs otherwise, so that what is kept is made anew
BEYOND = 1e-4  # rounding that texture coordinates may reach beyond [0, 1]


def unwrap(
    mesh: object,
    reunwrap: bool = False,
    timeout: float = 300.0,
    cache: str | Path | None = None,
    progress: bool = False,
) -> Mesh:
    """The mesh with texture coordinates that give every point of the surface a texel of its own.

    Its own are kept where they do. Otherwise xatlas makes new ones, in a process of its own; where it takes longer than
    ``timeout`` or breaks, box projection does, and a warning says so. The geometry stays as it is.

    Args:
        mesh: what :func:`fastsync.geometry.load` takes.
        reunwrap: make new ones even where the mesh's own serve.
        timeout: seconds that xatlas may take.
        cache: folder in which xatlas's results are kept, by the geometry; None: ``FASTSYNC_CACHE`` if that is set, else
            ``fastsync`` in the user's cache folder. A folder that cannot be written is done without.
        progress: show how the time passes, up to the time-out.

    Raises:
        ImportError: new ones are needed and xatlas is not installed.
    """
    mesh = load(mesh)
    timeout = check_number("timeout", timeout, minimum=0.0)
    problem = uv_problem(mesh)
    if not problem and not reunwrap:
        return mesh
    if problem and mesh.uv is not None:
        warnings.warn(
            f"the mesh's texture coordinates {problem}, so that views could not be painted apart from each other: new "
            "ones are made; unwrap it in a modelling tool to keep yours.",
            stacklevel=2,
        )
    need("xatlas")
    folder = Path(cache) if cache is not None else cache_folder()
    file = folder / f"uv-{mesh.digest}-xatlas-{version('xatlas')}-{PACKING}.npz"
    found = _cached(mesh, file)
    if found is not None:
        return found
    unwrapped = _by_xatlas(mesh, timeout, progress)
    if isinstance(unwrapped, str):
        warnings.warn(
            f"xatlas {unwrapped}, so box projection takes its place, with more seams: raise timeout=, or simplify the "
            "mesh or unwrap it in a modelling tool.",
            stacklevel=2,
        )
        return box_projection(mesh)
    _keep(unwrapped, file)
    return unwrapped


def uv_problem(mesh: Mesh) -> str:
    """Why the mesh's texture coordinates do not serve, as the rest of a sentence; empty where they do."""
    if mesh.uv is None or mesh.uv_faces is None:
        return "are missing"
    used = mesh.uv[mesh.uv_faces]
    if used.min() < -BEYOND or used.max() > 1 + BEYOND:
        return f"reach from {used.min():.3g} to {used.max():.3g}, beyond [0, 1]"
    lost = float(mesh.areas[mesh.uv_areas < 1e-12].sum() / mesh.areas.sum())
    if lost > TOLERATED:
        return f"have no place for {lost:.0%} of the surface"
    twice = overlap(mesh, RASTER)
    return f"overlap on {twice:.0%} of the texels that they use" if twice > TOLERATED else ""


def cache_folder() -> Path:
    """``FASTSYNC_CACHE``, or ``fastsync`` where the system keeps what programs can make anew."""
    if os.environ.get("FASTSYNC_CACHE"):
        return Path(os.environ["FASTSYNC_CACHE"])
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "fastsync" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "fastsync"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fastsync"


def _by_xatlas(mesh: Mesh, timeout: float, progress: bool) -> Mesh | str:
    """The unwrapped mesh, or what went wrong, as the rest of a sentence."""
    with tempfile.TemporaryDirectory() as folder:
        source, target, said = (Path(folder) / name for name in ("in.npz", "out.npz", "said.txt"))
        np.savez(source, vertices=mesh.placed.astype(np.float32), faces=mesh.faces.astype(np.uint32))
        worker = Path(__file__).with_name("unwrap_worker.py")
        with said.open("wb") as errors:
            process = subprocess.Popen(
                [sys.executable, str(worker), str(source), str(target)], stdout=errors, stderr=errors
            )
        try:
            if not _finished(process, timeout, progress, len(mesh.faces)):
                return f"did not unwrap {len(mesh.faces)} faces in {timeout:g} seconds"
        finally:
            process.kill()
            process.wait()
        if process.returncode:
            last = (said.read_text(errors="replace").strip().splitlines() or ["no message"])[-1]
            return f"broke down (exit code {process.returncode}: {last})"
        return _read(mesh, target)


def _finished(process: subprocess.Popen[bytes], timeout: float, progress: bool, faces: int) -> bool:
    """Wait; False where the time is up."""
    start = time.monotonic()
    form = "{desc}: {elapsed} of at most " + f"{timeout:g} s"
    with tqdm(desc=f"xatlas unwraps {faces} faces", bar_format=form, disable=not progress) as bar:
        while (left := start + timeout - time.monotonic()) > 0:
            try:
                process.wait(min(0.5, left))
                return True
            except subprocess.TimeoutExpired:
                bar.refresh()
    return process.poll() is not None


def _read(mesh: Mesh, file: Path) -> Mesh:
    with np.load(file) as table:
        return mesh.with_uv(np.clip(table["uv"], 0, 1), table["uv_faces"].astype(np.int64))


def _cached(mesh: Mesh, file: Path) -> Mesh | None:
    try:
        return _read(mesh, file)
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile):  # not there, or damaged: made anew
        return None


def _keep(mesh: Mesh, file: Path) -> None:
    assert mesh.uv is not None and mesh.uv_faces is not None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as temporary:
            np.savez_compressed(temporary, uv=mesh.uv.astype(np.float32), uv_faces=mesh.uv_faces.astype(np.int32))
    except OSError:  # a cache is a convenience
        pass
