"""Build script. Everything declarative stands in pyproject.toml; here is what it cannot say.

The Triton kernels live in `kernels/` beside the package and are imported as `fastsync.kernels`, so the list of
packages has two roots. The mapping survives an editable install because pyproject.toml names the build backend.

The extension `fastsync._C` is built from `csrc/` where torch and a compiler are there, with CUDA where nvcc and a CUDA
torch are. FASTSYNC_BUILD=auto|cuda|cpu|none asks for more or less: what is asked for by name and cannot be built ends
the installation; under `auto` it goes on as pure Python and says so.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from setuptools import find_packages, setup

CPU = [f"{name}.cpp" for name in ("bindings", "steps", "overlap_loss", "control", "transform", "windows", "taps")]
CUDA = ["bindings_cuda.cpp", "taps.cu"]
MODES = ("auto", "cuda", "cpu", "none")


def say(text):
    """On stderr, past pip, which shows a build's output only when it fails."""
    print(f"fastsync: {text}", file=sys.stderr, flush=True)


def missing_for_cpu():
    """Why the C++ part cannot be built, or an empty string."""
    try:
        import torch  # noqa: F401
    except ImportError:
        return (
            "torch is not there at build time; install torch, setuptools>=77, wheel and ninja, then use "
            "pip install --no-build-isolation"
        )
    compiler = os.environ.get("CXX", "c++").split()[0]
    if shutil.which(compiler) is None:
        return f"there is no C++ compiler {compiler!r}; install g++ or set CXX"
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "probe.cpp"
        source.write_text("#include <vector>\nint main() { return std::vector<int>().size(); }\n")
        command = [compiler, "-std=c++17", str(source), "-o", str(source.with_suffix(""))]
        if subprocess.run(command, capture_output=True).returncode:
            return f"the C++ compiler {compiler!r} does not compile a program of one line; mend it or set CXX"
    return ""


def missing_for_cuda():
    """Why the CUDA part cannot be built, or an empty string."""
    import torch
    from torch.utils.cpp_extension import CUDA_HOME

    if torch.version.cuda is None:
        return "torch is a build without CUDA; install a CUDA build of torch"
    if CUDA_HOME is None or not (Path(CUDA_HOME) / "bin" / "nvcc").exists():
        return "nvcc was not found; install the CUDA toolkit or set CUDA_HOME"
    return ""


def extension():
    """(ext_modules, cmdclass) of what can be built and was asked for."""
    mode = os.environ.get("FASTSYNC_BUILD", "auto")
    if mode not in MODES:
        raise SystemExit(f"FASTSYNC_BUILD must be one of {', '.join(MODES)}, got {mode!r}: set it to one of these.")
    if mode == "none":
        say("FASTSYNC_BUILD=none: installing pure Python, without the extension fastsync._C.")
        return [], {}
    problem = missing_for_cpu()
    if problem and mode != "auto":
        raise SystemExit(f"FASTSYNC_BUILD={mode} cannot be done: {problem}.")
    if problem:
        say(f"installing pure Python, without the extension fastsync._C: {problem}.")
        return [], {}
    from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension

    problem = missing_for_cuda() if mode in ("auto", "cuda") else "not asked for"
    if problem and mode == "cuda":
        raise SystemExit(f"FASTSYNC_BUILD=cuda cannot be done: {problem}.")
    # Without -fopenmp at::parallel_for runs on one thread; Apple's compiler has no such option.
    threads = ["-fopenmp"] if sys.platform == "linux" else []
    # Without the last two, a square root or a comparison keeps a loop from being vectorised.
    flags = ["-O3", "-std=c++17", "-fvisibility=hidden", *threads, "-fno-math-errno", "-fno-trapping-math"]
    if problem:
        kind, sources, arguments = CppExtension, CPU, flags
    else:
        kind, sources = CUDAExtension, CPU + CUDA
        arguments = {"cxx": [*flags, "-DFASTSYNC_CUDA"], "nvcc": ["-O3", "-std=c++17", "-DFASTSYNC_CUDA"]}
    say(f"building fastsync._C for the CPU{' (no CUDA: ' + problem + ')' if problem else ' and CUDA'}.")
    # optional: a compiler that fails leaves a pure Python installation under `auto`.
    module = kind(
        "fastsync._C",
        [f"csrc/{name}" for name in sources],
        depends=[str(header) for header in Path("csrc").glob("*.h")],
        extra_compile_args=arguments,
        extra_link_args=threads,
        optional=mode == "auto",
    )

    class Build(BuildExtension):
        """Tells when the compiler failed and the installation goes on without."""

        def build_extension(self, ext):
            try:
                super().build_extension(ext)
            except Exception as error:
                if mode == "auto":
                    say(f"installing pure Python: building fastsync._C failed ({type(error).__name__}).")
                raise

    return [module], {"build_ext": Build}


modules, commands = extension()
setup(
    packages=[
        *find_packages(include=["fastsync", "fastsync.*"]),
        *(f"fastsync.{name}" for name in find_packages(include=["kernels", "kernels.*"])),
    ],
    package_dir={"fastsync": "fastsync", "fastsync.kernels": "kernels"},
    ext_modules=modules,
    cmdclass=commands,
)
