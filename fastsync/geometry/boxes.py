"""Box projection: texture coordinates for every mesh in no time, with more seams than xatlas makes."""

from __future__ import annotations

import numpy as np

from .meshes import Mesh, need

PADDING = 0.004  # between charts, a share of the texture


def box_projection(mesh: Mesh) -> Mesh:
    """The mesh with each face seen along the axis (of six directions) to which its normal is nearest.

    Faces of one direction that hang together are a chart; charts of one scale are packed beside one another, so faces
    that lie behind one another do not share texels. Only a surface that winds over itself does (a spiral stair).
    """
    steepest = np.abs(mesh.normals).argmax(1)
    rows = np.arange(len(mesh.faces))
    direction = 2 * steepest + (mesh.normals[rows, steepest] < 0)
    chart = _charts(mesh, direction)
    corners = mesh.placed[mesh.faces]
    flat = np.empty((len(mesh.faces), 3, 2))
    for axis in range(3):
        chosen = steepest == axis
        flat[chosen] = corners[chosen][..., [(axis + 1) % 3, (axis + 2) % 3]]
    low, high = np.full((chart.max() + 1, 2), np.inf), np.full((chart.max() + 1, 2), -np.inf)
    np.minimum.at(low, chart, flat.min(1))
    np.maximum.at(high, chart, flat.max(1))
    place, side = _packed(high - low)
    uv = (flat - low[chart][:, None] + place[chart][:, None]) / side
    return mesh.with_uv(uv.reshape(-1, 2), np.arange(3 * len(mesh.faces)).reshape(-1, 3))


def _charts(mesh: Mesh, direction: np.ndarray) -> np.ndarray:
    """A number for each face int [F]: equal for faces of one direction that are joined by edges."""
    sparse, csgraph = need("scipy.sparse"), need("scipy.sparse.csgraph")
    # Corners at one place are one, whatever their indices: STL files have no common vertices at all.
    place = np.unique(mesh.vertices, axis=0, return_inverse=True)[1].reshape(-1)[mesh.faces]
    edges = np.sort(np.stack([place, np.roll(place, -1, 1)], -1), -1).reshape(-1, 2)
    key = np.concatenate([edges, np.repeat(direction, 3)[:, None]], 1)
    edge = np.unique(key, axis=0, return_inverse=True)[1].reshape(-1)
    # Faces and edges are the nodes of a graph, in which a face is joined to its edges.
    count = len(direction)
    ends = (np.repeat(np.arange(count), 3), count + edge)
    nodes = count + edge.max() + 1
    graph = sparse.coo_array((np.ones(len(edge), np.int8), ends), shape=(nodes, nodes))
    label = csgraph.connected_components(graph, directed=False)[1][:count]
    chart: np.ndarray = np.unique(label, return_inverse=True)[1].reshape(-1)
    return chart


def _packed(boxes: np.ndarray) -> tuple[np.ndarray, float]:
    """Places [n, 2] of boxes [n, 2] in rows of falling height, and the side of the square that they fill."""
    area = float((boxes.prod(1)).sum())
    padding = PADDING * max(np.sqrt(area), float(boxes.max()))
    padded = boxes + padding
    order = np.argsort(-padded[:, 1], kind="stable")
    ends = padded[order, 0].cumsum()
    length = max(np.sqrt(float(padded.prod(1).sum())), float(padded[:, 0].max()))
    shelf = ((ends - padded[order, 0]) // length).astype(np.int64)
    shelf = np.unique(shelf, return_inverse=True)[1].reshape(-1)
    first = np.searchsorted(shelf, np.arange(shelf[-1] + 1))
    height = padded[order[first], 1]
    place = np.empty_like(boxes)
    place[order, 0] = (ends - padded[order, 0]) - (ends - padded[order, 0])[first][shelf]
    place[order, 1] = (height.cumsum() - height)[shelf]
    place += padding / 2
    side = float((place + boxes).max() + padding / 2)
    return place, side
