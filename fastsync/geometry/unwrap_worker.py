"""The process in which xatlas works, since it can run for hours and cannot be interrupted: worker.py IN.npz OUT.npz.

Started by its path, so that it loads nothing but numpy and xatlas.
"""

import sys

import numpy as np
import xatlas


def main(source: str, target: str) -> None:
    """Reads ``vertices`` float32 [V, 3] and ``faces`` uint32 [F, 3], writes ``uv`` [T, 2] and ``uv_faces`` [F, 3]."""
    with np.load(source) as mesh:
        atlas = xatlas.Atlas()
        atlas.add_mesh(mesh["vertices"], mesh["faces"])
    packing = xatlas.PackOptions()
    # Four texels between charts at 512, one at 128: bilinear taps of one chart must not reach into another.
    packing.resolution, packing.padding = 512, 4
    atlas.generate(pack_options=packing)
    _, faces, uv = atlas[0]
    np.savez(target, uv=uv, uv_faces=faces)


if __name__ == "__main__":
    main(*sys.argv[1:])
