"""One page that shows a textured mesh: turn it, see its texture and views, take it along."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from PIL import Image

from ..files import check_writable, replacing
from ..geometry import Mesh, TexturedMesh
from ..geometry.shading import LIGHT, SHADE, corner_normals

SUFFIXES = (".html", ".htm")


def check_report_path(path: str | Path) -> None:
    """Raises `ValueError` for a suffix that is not of `SUFFIXES`, `OSError` where no file can be written."""
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{path} ends in {suffix or 'no suffix'!r}; a report needs one of {', '.join(SUFFIXES)}.")
    check_writable(path)


def write_report(
    path: str | Path,
    textured: TexturedMesh,
    views: Sequence[Image.Image],
    parameters: Mapping[str, Any],
    turntable: Sequence[Image.Image] = (),
) -> None:
    """Write an HTML page that needs no network, whole or not at all.

    It holds a viewer (WebGL 2; mouse, touch and keys), the texture, the views, a table of parameters, and the GLB file
    to download. Where there is no WebGL it shows the turntable, or else the first view, or else the texture.

    Args:
        views: pictures of what the prior painted; there may be none.
        parameters: what the table says, in its order, any text; None as a value is left out. ``"prompt"`` is the title.
        turntable: frames of :func:`fastsync.turntable.turntable`.

    Raises:
        ValueError, OSError: another suffix than .html; a folder that is not there or cannot be written; what
            :meth:`TexturedMesh.glb` raises.
    """
    check_report_path(path)
    path = Path(path)
    glb, texture = textured.glb(), _uri("image/png", textured.png)
    style, script = (files(__name__).joinpath(name).read_text("utf-8") for name in ("style.css", "viewer.js"))
    page = Template(files(__name__).joinpath("page.html").read_text("utf-8")).substitute(
        title=html.escape(str(parameters.get("prompt", "A textured mesh"))),
        style=style,
        style_hash=_hash(style),
        script=script,
        script_hash=_hash(script),
        still=_still(turntable, views, texture),
        name=html.escape(path.stem + ".glb"),
        glb=_uri("model/gltf-binary", glb),
        glb_size=_bytes(len(glb)),
        views=_views(views),
        texture=texture,
        texture_size=f"{textured.texture.width} &times; {textured.texture.height}",
        parameters="\n".join(_row(name, value) for name, value in parameters.items() if value is not None),
        version=version("fastsync"),
        # The only character with which text could leave the JSON block.
        mesh=json.dumps(_buffers(textured.mesh)).replace("<", "\\u003c"),
    )
    with replacing(path) as temporary:
        temporary.write_text(page, "utf-8")


def _buffers(mesh: Mesh) -> dict[str, Any]:
    """What the viewer draws, arrays as base64: each different corner once, and the faces' three of them."""
    assert mesh.uv is not None and mesh.uv_faces is not None
    normals = np.zeros((3 * len(mesh.faces), 4), np.int8)  # a fourth byte, because WebGL likes rows of four
    normals[:, :3] = np.rint(127 * corner_normals(mesh).reshape(-1, 3))
    corners = np.stack([mesh.faces.ravel(), mesh.uv_faces.ravel(), normals.view(np.int32)[:, 0]], 1)
    _, first, index = np.unique(corners, axis=0, return_index=True, return_inverse=True)
    vertex, coordinate = corners[first, 0], corners[first, 1]
    arrays = {
        "position": mesh.placed[vertex].astype("<f4"),
        "normal": normals[first],
        "uv": np.rint(65535 * mesh.uv[coordinate].clip(0, 1)).astype("<u2"),
        "index": index.reshape(-1).astype("<u4"),
    }
    return {name: _base64(array.tobytes()) for name, array in arrays.items()} | {"light": LIGHT, "shade": SHADE}


def _still(turntable: Sequence[Image.Image], views: Sequence[Image.Image], texture: str) -> str:
    """What is seen where there is no WebGL."""
    pictures = list(turntable) or list(views[:1])
    source = texture
    if pictures:
        file = io.BytesIO()
        times = round(3000 / len(pictures))
        pictures[0].save(
            file, "WEBP", save_all=True, append_images=pictures[1:], duration=times, loop=0, quality=80, method=2
        )
        source = _uri("image/webp", file.getvalue())
    return f'<img id="still" src="{source}" alt="The painted mesh">'


def _views(views: Sequence[Image.Image]) -> str:
    items = []
    for number, view in enumerate(views, 1):
        file = io.BytesIO()
        view.convert("RGB").save(file, "WEBP", quality=90)
        items.append(f'<li><img src="{_uri("image/webp", file.getvalue())}" alt="View {number}"></li>')
    if not items:
        return ""
    return f'<section>\n<h2>Views <small>{len(items)}</small></h2>\n<ul class="views">{"".join(items)}</ul>\n</section>'


def _row(name: str, value: Any) -> str:
    if isinstance(value, Mapping):
        value = ", ".join(f"{key} {part}" for key, part in value.items())
    shown = f"{value:.6g}" if isinstance(value, float) else str(value)
    return f'<tr><th scope="row">{html.escape(str(name))}</th><td>{html.escape(shown)}</td></tr>'


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{_base64(data)}"


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _hash(text: str) -> str:
    """What the page's security policy calls a script that may run."""
    return "sha256-" + _base64(hashlib.sha256(text.encode()).digest())


def _bytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{max(1, round(count / 1e3))} kB"
