"""Meshes that tests look at, with texture coordinates of their own where unwrapping is not the subject."""

import numpy as np

from fastsync.geometry import Mesh


def grid(rows, columns, place):
    """A patch of quads cut in two: ``place(u, v)`` [.., 3], texture coordinates (u, v) all over [0, 1]^2."""
    v, u = np.meshgrid(np.linspace(0, 1, rows + 1), np.linspace(0, 1, columns + 1), indexing="ij")
    corner = np.arange((rows + 1) * (columns + 1)).reshape(rows + 1, columns + 1)
    a, b, c, d = (part.ravel() for part in (corner[:-1, :-1], corner[:-1, 1:], corner[1:, 1:], corner[1:, :-1]))
    faces = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
    return Mesh(place(u, v).reshape(-1, 3), faces, np.stack([u.ravel(), v.ravel()], 1))


def sphere(rows=24, columns=48, bumps=0.0, seed=0):
    """A globe, unwrapped as an equirectangular map (v upward), rough by ``bumps`` of its radius."""
    rough = np.random.default_rng(seed).standard_normal((rows + 1, columns + 1))
    rough[:, -1], rough[0], rough[-1] = rough[:, 0], rough[0, 0], rough[-1, 0]  # the seam and the poles are closed

    def place(u, v):
        latitude, longitude = (v - 0.5) * np.pi, (u - 0.5) * 2 * np.pi
        flat = np.cos(latitude)
        point = np.stack([flat * np.sin(longitude), np.sin(latitude), flat * np.cos(longitude)], -1)
        return point * (1 + bumps * rough)[..., None]

    return grid(rows, columns, place)


def cube():
    """Six squares side by side in the texture, a margin around each."""
    parts = []
    for axis in range(3):
        for sign in (-1.0, 1.0):
            corners = np.zeros((4, 3))
            corners[:, axis] = sign
            corners[:, (axis + 1) % 3] = [-1, 1, 1, -1]
            corners[:, (axis + 2) % 3] = [-1, -1, 1, 1]
            parts.append(corners if sign > 0 else corners[::-1])
    square = np.array([[0, 0], [1, 0], [1, 1], [0, 1]])
    uv = [(np.array([i % 3, i // 3]) + 0.05 + 0.9 * square) / [3, 2] for i in range(6)]
    faces = np.concatenate([[[4 * i, 4 * i + 1, 4 * i + 2], [4 * i, 4 * i + 2, 4 * i + 3]] for i in range(6)])
    return Mesh(np.concatenate(parts), faces, np.concatenate(uv))


def plates(*depths, side=1.0):
    """Squares [-side, side]^2 that face the front (+z), one behind the other, beside one another in the texture."""
    square = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    vertices, faces, uv = [], [], []
    for i, depth in enumerate(depths):
        vertices.append(np.concatenate([side * square, np.full((4, 1), depth)], 1))
        faces.append(4 * i + np.array([[0, 1, 2], [0, 2, 3]]))
        uv.append(((square + 1) / 2 * 0.9 + 0.05 + [i, 0]) / [len(depths), 1])
    return Mesh(np.concatenate(vertices), np.concatenate(faces), np.concatenate(uv))


def scan(seed=0):
    """As from a scanner: bumpy, torn, with holes, loose shreds, degenerate and doubled faces; not unwrapped."""
    globe, random = sphere(20, 40, bumps=0.02, seed=seed), np.random.default_rng(seed)
    faces = globe.faces[random.random(len(globe.faces)) > 0.1]
    shreds = random.standard_normal((30, 3, 3)) * 0.05 + random.standard_normal((30, 1, 3))
    vertices = np.concatenate([globe.vertices, shreds.reshape(-1, 3)])
    loose = len(globe.vertices) + np.arange(90).reshape(-1, 3)
    return Mesh(vertices, np.concatenate([faces, faces[:5], loose, [[0, 0, 0], [5, 5, 9]]]))
