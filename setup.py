"""Build script. Everything declarative stands in pyproject.toml; here is only what it cannot say.

The Triton kernels live in `kernels/` beside the package and are imported as `fastsync.kernels`, so the list of
packages has two roots. The mapping survives an editable install because pyproject.toml names the build backend.
"""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["fastsync", "fastsync.*"]),
        *(f"fastsync.{name}" for name in find_packages(include=["kernels", "kernels.*"])),
    ],
    package_dir={"fastsync": "fastsync", "fastsync.kernels": "kernels"},
)
