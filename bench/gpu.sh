#!/usr/bin/env bash
# One call on a bare GPU machine: builds fastsync with CUDA, tests and measures it. From the repository's root:
#
#   bash bench/gpu.sh             results go to $OUT, or to bench/results
#   bash bench/gpu.sh ops         leaves the whole runs out;  "runs" leaves the ops out: each then has all of the time
#   bash bench/gpu.sh pipelines   SDXL, SD3, FLUX and SANA of real size, beside their own calls, and nothing else
#   DRY=1 bash bench/gpu.sh       prints the stages' commands and runs none of them
#
# Needs python3 with a CUDA build of torch, Triton, pytest, pytest-benchmark, setuptools, wheel and ninja, and nvcc.
# Python packages that are missing there (diffusers) may lie in .whl/ as wheels. Nothing is written to the machine's own
# site-packages. A stage that fails is named at the end and the others still run; all of it ends within 10 minutes.
set -uo pipefail

PART=${1:-all}
[[ $PART == all || $PART == ops || $PART == runs || $PART == pipelines ]] || {
    echo "the part must be ops, runs or pipelines, got $PART" >&2
    exit 2
}
cd "$(dirname "$0")/.." || exit 2
ROOT=$PWD
RESULTS=${OUT:-$ROOT/bench/results}
PYTHON=${PYTHON:-python3}
DRY=${DRY:-}
LIMIT=570 # seconds for everything: machines on loan stop a command at 600
WORK=$(mktemp -d)
SITE=$WORK/site
RUN=$WORK/run
FAILED=()
trap 'rm -rf "$WORK"' EXIT
export PYTHONUNBUFFERED=1

# stage NAME SECONDS COMMAND...: never longer than what is left of LIMIT.
stage() {
    local name=$1 seconds=$2 left=$((LIMIT - SECONDS)) began=$SECONDS status
    shift 2
    ((seconds > left)) && seconds=$left
    echo "=== $name (at most $seconds s)"
    if [[ -n $DRY ]]; then
        printf ' %q' "$@"
        echo
        return 0
    fi
    if ((seconds < 5)); then
        FAILED+=("$name: no time left")
        return 1
    fi
    timeout --kill-after=5 "$seconds" "$@"
    status=$?
    echo "=== $name: status $status after $((SECONDS - began)) s"
    ((status == 0)) || FAILED+=("$name: status $status")
    return "$status"
}

# build MODE: an installation in $SITE. Not an editable one, whose finder only works in a site-packages folder.
build() {
    stage "build FASTSYNC_BUILD=$1" 200 env "FASTSYNC_BUILD=$1" "MAX_JOBS=$(nproc)" \
        "$PYTHON" -m pip install --quiet --no-build-isolation --no-deps --no-cache-dir --upgrade --target "$SITE" "$ROOT"
}

mkdir -p "$RESULTS" "$SITE" "$RUN"
RESULTS=$(cd "$RESULTS" && pwd)
# In the root, the folder fastsync/ would hide the installation, which alone holds _C and fastsync.kernels.
cp -r bench tests pyproject.toml "$RUN"
export PYTHONPATH=$SITE

if compgen -G "$ROOT/.whl/*.whl" >/dev/null; then
    stage "wheels" 60 "$PYTHON" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --upgrade \
        --target "$SITE" "$ROOT"/.whl/*.whl
fi
build cuda || build cpu || build none

cd "$RUN" || exit 2
stage "machine" 60 "$PYTHON" - <<'PY'
import torch, triton
from fastsync.ops import dispatch
print(torch.__version__, torch.version.cuda, triton.__version__, torch.cuda.get_device_name())
broken = []
for op, backend, status in dispatch.table():
    try:
        status = status if not status.startswith("runs") else f"{status}: {dispatch.self_test(op, backend)}"
    except Exception as error:
        status = f"FAILED: {error}"
        broken.append(op)
    print(f"{op:15} {backend:7} {status}")
raise SystemExit(bool(broken))
PY

if [[ $PART == pipelines ]]; then
    # Each model that is done is written at once; the last one may be under way when the time is over.
    SHARE=$((LIMIT - 10 - SECONDS))
    stage "bench pipelines" "$SHARE" "$PYTHON" -m bench.pipelines --device cuda \
        --output "$RESULTS/pipelines_cuda.json" --minutes "$(((SHARE - 90) / 60))"
fi

WORKERS=()
"$PYTHON" -c "import xdist" 2>/dev/null && WORKERS=(-n 4)
if [[ $PART == pipelines ]]; then
    :
elif [[ -d tests/gpu ]]; then
    stage "tests/gpu" 180 "$PYTHON" -m pytest tests/gpu -p no:cacheprovider "${WORKERS[@]}"
else
    FAILED+=("tests/gpu: there is no such folder")
fi

# minutes SECONDS: as the suites take them. They end by themselves, so that what was measured is written; half a minute
# is for what runs at the end.
minutes() {
    local tenths=$(($1 / 6 - 5))
    ((tenths < 5)) && tenths=5
    echo "$((tenths / 10)).$((tenths % 10))"
}

if [[ $PART == all || $PART == runs ]]; then
    SHARE=$((LIMIT - 20 - SECONDS))
    [[ $PART == all ]] && SHARE=$((SHARE / 2))
    stage "bench runs" "$SHARE" "$PYTHON" -m bench.end_to_end --device cuda --rounds 1 \
        --output "$RESULTS/end_to_end_cuda.json" --minutes "$(minutes "$SHARE")"
fi
if [[ $PART == all || $PART == ops ]]; then
    # Building the tables is the processor's work, on any machine; what is timed after it is the GPU's.
    if [[ -n $DRY ]] || "$PYTHON" -c "import embreex, scipy" 2>/dev/null; then
        stage "bench mesh" 120 "$PYTHON" -m bench.mesh --device cuda --seconds 1 \
            --output "$RESULTS/mesh_cuda.json" --minutes "$(minutes 120)"
    else
        FAILED+=("bench mesh: it needs embreex and scipy, which may lie in .whl/ as wheels")
    fi
    SHARE=$((LIMIT - 90 - SECONDS))
    stage "bench ops" "$SHARE" "$PYTHON" -m bench.ops --device cuda --seconds 0.5 \
        --output "$RESULTS/ops_cuda.json" --minutes "$(minutes "$SHARE")"
    stage "tests/ops" 80 "$PYTHON" -m pytest tests/ops -p no:cacheprovider "${WORKERS[@]}"
fi

for result in "$RESULTS/end_to_end_cuda.json" "$RESULTS/ops_cuda.json" "$RESULTS/mesh_cuda.json"; do
    [[ -z $DRY && -f $result ]] && stage "table" 30 "$PYTHON" -m bench.report --goals "$result"
done

echo
if ((${#FAILED[@]})); then
    printf 'FAILED  %s\n' "${FAILED[@]}"
    exit 1
fi
echo "All stages passed in $SECONDS s; results in $RESULTS."
