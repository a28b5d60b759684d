"""The zoo: small real priors that come with the package, so that nothing needs a network."""

import hashlib
import importlib
from pathlib import Path

from ..diffusion import SolverChoice

_WEIGHTS = Path(__file__).parent / "weights"
_PIPELINES = ("scenes", "glyphs", "scenes-depth")
_GENERATORS = {"scenes": "scenes", "glyphs": "glyphs", "scenes-depth": "objects"}
# glyphs carries DDPM's scheduler, and was evaluated with deterministic steps.
_SOLVERS: dict[str, SolverChoice] = {"glyphs": "ddim"}
_GUIDANCE = {"scenes": 3.0, "glyphs": 3.0, "scenes-depth": 3.0}


def names() -> tuple[str, ...]:
    """The pipelines whose weights are in this installation."""
    return tuple(name for name in _PIPELINES if (_WEIGHTS / name / "model_index.json").is_file())


def path(name: str = "scenes") -> str:
    """The folder of a pipeline in diffusers' own format, for `DiffusionPipeline.from_pretrained(path(name))`.

    Raises `ValueError` for a name that the zoo does not know, and `FileNotFoundError` where its weights are missing.
    """
    _check(name)
    if name not in names():
        raise FileNotFoundError(
            f"The weights of the prior {name!r} are not in this installation ({_WEIGHTS / name}); "
            f"install the package from a full checkout or make them with `python -m fastsync.zoo.train {name}`."
        )
    return str(_WEIGHTS / name)


def guidance_scale(name: str = "scenes") -> float:
    """The guidance at which a prior was evaluated: the default of `SyncPipeline.from_zoo(name)`."""
    _check(name)
    return _GUIDANCE[name]


def solver(name: str = "scenes") -> SolverChoice:
    """The solver a prior was evaluated with: the default of `SyncPipeline.from_zoo(name)`."""
    _check(name)
    return _SOLVERS.get(name, "auto")


def words(name: str = "scenes") -> list[str]:
    """The words that a prior was trained on, sorted."""
    _check(name)
    vocabulary: list[str] = importlib.import_module(f"{__name__}.{_GENERATORS[name]}").vocabulary()
    return vocabulary


def fingerprint(name: str = "scenes") -> str:
    """Twelve hexadecimal digits of a prior's and its classifier's weights: results of other weights are others'."""
    digest = hashlib.sha256()
    for folder in (Path(path(name)), _WEIGHTS / f"{name}-classifier"):
        for file in sorted(folder.rglob("*.safetensors")):
            digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def _check(name: str) -> None:
    if name not in _PIPELINES:
        raise ValueError(f"The zoo has no prior {name!r}; it has {', '.join(_PIPELINES)}: choose one of those.")
