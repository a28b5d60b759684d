"""What an installation is made of, as its metadata and files tell."""

import os
import re
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest

import fastsync

ROOT = Path(__file__).parents[1]
PACKAGE = Path(fastsync.__file__).parent


def requirements(extra=None):
    marker = None if extra is None else f'extra == "{extra}"'
    found = set()
    for line in distribution("fastsync").requires:
        requirement, _, condition = (part.strip() for part in line.partition(";"))
        if condition == (marker or ""):
            found.add(re.match(r"[\w-]+", requirement)[0])
    return found


def test_the_version_stands_in_one_place():
    assert fastsync.__version__ == distribution("fastsync").version
    sources = [ROOT / "pyproject.toml", ROOT / "setup.py", *PACKAGE.rglob("*.py"), *(ROOT / "kernels").rglob("*.py")]
    assert len([file for file in sources if f'"{fastsync.__version__}"' in file.read_text()]) == 1


def test_the_base_install_needs_only_what_it_must():
    assert requirements() == {
        "torch", "diffusers", "transformers", "accelerate", "safetensors", "numpy", "pillow", "tqdm", "typer",
    }  # fmt: skip


def test_extras():
    assert set(distribution("fastsync").metadata.get_all("Provides-Extra")) == {
        "mesh", "metrics", "triton", "xformers", "dev",
    }  # fmt: skip
    assert requirements("mesh") == {"trimesh", "xatlas", "embreex", "scipy"}
    assert requirements("metrics") == {"torchmetrics", "torch-fidelity"}
    assert requirements("triton") == {"triton"}
    assert requirements("xformers") == {"xformers"}


def test_licence_command_and_types():
    metadata = distribution("fastsync").metadata
    assert metadata["License-Expression"] == "Apache-2.0"
    (command,) = distribution("fastsync").entry_points.select(group="console_scripts")
    assert (command.name, command.load().__class__.__name__) == ("fastsync", "Typer")
    assert (PACKAGE / "py.typed").is_file()


def test_kernels_are_found_from_any_folder(tmp_path):
    code = "import fastsync.kernels as k; assert k.__name__ == 'fastsync.kernels'; print(k.__doc__.split()[0])"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "Triton", done.stderr


def test_tests_are_no_package():
    # With an __init__.py, pytest would put the root first on the path, and fastsync.kernels would not be found. Folders
    # of helpers may have one: it puts tests/ first.
    assert not (ROOT / "tests" / "__init__.py").exists()


def build_script(mode, tmp_path, without_torch=False, **environment):
    """What setup.py decides and says, without building: ``(exit status, stderr)``."""
    if without_torch:
        (tmp_path / "torch.py").write_text("raise ImportError('not here')\n")
        environment["PYTHONPATH"] = str(tmp_path)
    command = [sys.executable, "setup.py", "--quiet", "--name"]
    environment = {**os.environ, "FASTSYNC_BUILD": mode, **environment}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


def test_what_is_built_is_said(tmp_path):
    status, said = build_script("cpu", tmp_path)
    assert status == 0 and "building fastsync._C for the CPU (no CUDA: not asked for)" in said
    status, said = build_script("none", tmp_path)
    assert status == 0 and "FASTSYNC_BUILD=none: installing pure Python" in said


def test_auto_goes_on_as_pure_python_and_says_why(tmp_path):
    status, said = build_script("auto", tmp_path, without_torch=True)
    assert status == 0 and "installing pure Python" in said and "torch is not there at build time" in said
    status, said = build_script("auto", tmp_path, CXX="no-such-compiler")
    assert status == 0 and "installing pure Python" in said and "no C++ compiler 'no-such-compiler'" in said


@pytest.mark.parametrize("mode", ["cpu", "cuda"])
def test_what_is_asked_for_by_name_must_be_possible(mode, tmp_path):
    status, said = build_script(mode, tmp_path, without_torch=True)
    assert status != 0 and f"FASTSYNC_BUILD={mode} cannot be done: torch is not there" in said
    status, said = build_script(mode, tmp_path, CXX="no-such-compiler")
    assert status != 0 and f"FASTSYNC_BUILD={mode} cannot be done: there is no C++ compiler" in said


def test_unknown_modes_and_a_torch_without_cuda_end_the_installation(tmp_path):
    status, said = build_script("gpu", tmp_path)
    assert status != 0 and "FASTSYNC_BUILD must be one of auto, cuda, cpu, none, got 'gpu'" in said
    import torch

    if torch.version.cuda is None:
        status, said = build_script("cuda", tmp_path)
        assert status != 0 and "FASTSYNC_BUILD=cuda cannot be done: torch is a build without CUDA" in said
