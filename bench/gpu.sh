#!/usr/bin/env bash
# What only a machine with a GPU can tell: our CUDA clock beside triton's, then the paper preset and its report.
#
#   bash bench/gpu.sh     writes under $OUT, or reports/out/gpu, and nowhere else; ends within 10 minutes; needs no network
#
# Needs a Python with torch >= 2.11 for CUDA and triton; lipbench itself need not be installed. Where packages are missing, put
# their wheels into a folder, .whl/ or the one that $WHEELS names: they are unpacked into a temporary folder for this run only.
# The whole preset takes longer than that. To go on, copy the run.tar.gz that came out and name it by $RESUME.
#
#   BUDGET_S    seconds for everything together (570)
#   PYTHON      which Python (python3)
#   DEVICE, PRESET, NETWORKS    what is profiled (cuda, paper, XS,S,M,L): the networks first, then the layers
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

budget=${BUDGET_S:-570}
python=${PYTHON:-python3}
device=${DEVICE:-cuda}
wheels=${WHEELS:-.whl}
report_s=60 # kept back for the report and the archive
round_s=75  # a round begun just before the deadline may last as long
out=${OUT:-reports/out/gpu}
mkdir -p "$out"
out=$(cd "$out" && pwd)
run="$out/run"

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export PYTHONPATH="$PWD:$PWD/kernels:$PWD/reports${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
export MPLCONFIGDIR="$scratch/matplotlib" TRITON_CACHE_DIR="$scratch/triton" TORCHINDUCTOR_CACHE_DIR="$scratch/inductor"
if compgen -G "$wheels/*.whl" >/dev/null; then
  "$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$scratch/site" "$wheels"/*.whl
  export PYTHONPATH="$PYTHONPATH:$scratch/site"
fi

{
  nvidia-smi || echo "nvidia-smi: no answer"
  "$python" - <<'CODE'
import importlib.metadata as metadata
import platform

import torch

print("python", platform.python_version())
for name in ("torch", "triton", "numpy", "pandas", "fvcore", "nvidia-ml-py", "pytest-benchmark", "seaborn", "typer"):
    try:
        print(name, metadata.version(name))
    except metadata.PackageNotFoundError:
        print(name, "is missing")
print("cuda", torch.version.cuda, torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA device")
CODE
} 2>&1 | tee "$out/machine.txt"

agreement=0
timeout 120 "$python" bench/agreement.py --device "$device" >"$out/agreement.jsonl" || agreement=$?
cut -c -240 "$out/agreement.jsonl"

rm -rf "$run"
[ -z "${RESUME:-}" ] || tar -xzf "$RESUME" -C "$out"
failed=0
profile() { # seconds, then what to profile; exit code 3, some case failed, is no reason to stop
  local code=0 deadline=$1
  shift
  "$python" -m lipbench.cli profile --preset "${PRESET:-paper}" --device "$device" --phase-seconds 0.2 \
    --timeout "$round_s" --deadline "$deadline" --out "$run" --resume "$@" || code=$?
  [ "$code" -eq 0 ] || [ "$code" -eq 3 ] || exit "$code"
  failed=$code
}
left() { # seconds, at least one: what is there is reported in any case
  local s=$((budget - report_s - round_s - SECONDS))
  echo $((s > 1 ? s : 1))
}
profile $((($(left) + 1) / 2)) --network "${NETWORKS:-XS,S,M,L}"
profile "$(left)"

"$python" -m lipbench.cli report "$run" -o "$out/report.html"
tar -czf "$out/run.tar.gz" -C "$out" run
rm -rf "$run" # its files are in the archive, which is easier to fetch than hundreds of them
echo "agreement: exit code $agreement; profile: exit code $failed; $SECONDS s"
ls -l "$out"
exit "$agreement"
