#!/usr/bin/env bash
# What only a machine with a GPU can tell: our CUDA clock beside triton's; the paper preset for all methods; every kernel against
# float64 and against what it replaces, and its time beside it; memory against the count on fake tensors; then the preset with
# kernels and compiled, and a report.
#
#   bash bench/gpu.sh     writes under $OUT, or reports/out/gpu, and nowhere else; ends within 10 minutes; needs no network
#
# Needs a Python with torch >= 2.11 for CUDA and triton; lipbench itself need not be installed. Where packages are missing, put
# their wheels into a folder, .whl/ or the one that $WHEELS names: they are unpacked into a temporary folder for this run only.
# The whole preset takes longer than that. To go on, copy the run.tar.gz that came out and name it by $RESUME.
#
#   BUDGET_S    seconds for everything together (570)
#   PYTHON      which Python (python3)
#   STAGES      what is done, of: agreement kernels memory profile (all; with $RESUME, profile)
#   DEVICE, PRESET, NETWORKS    what is profiled (cuda, paper, XS,S,M,L): networks, then layers, one round of each first
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

budget=${BUDGET_S:-570}
python=${PYTHON:-python3}
device=${DEVICE:-cuda}
wheels=${WHEELS:-.whl}
report_s=110 # kept back for the report
round_s=100  # a round begun just before the deadline may last as long
kernels_s=230 memory_s=40 # kept back for these stages
stages=${STAGES:-$([ -n "${RESUME:-}" ] && echo profile || echo agreement kernels memory profile)}
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

wrong=0
staged() { # whether a stage is to be done
  [[ " $stages " == *" $1 "* ]]
}
left() { # seconds until the report has to be begun, at most so many
  local s=$((budget - report_s - SECONDS))
  echo $((s < 1 ? 1 : s < $1 ? s : $1))
}
within() { # seconds, a name, a command: its standard output goes to $OUT; what fails is named at the end, and nothing stops
  local code=0 limit name=$2
  limit=$(left "$1")
  shift 2
  [ "$limit" -gt 5 ] || { : >"$out/$name" && echo "$name: no time left" && return; }
  timeout -k 5 "$limit" "$@" >"$out/$name" || code=$?
  [ "$code" -eq 0 ] || { wrong=1 && echo "$name: exit code $code after at most $limit s"; }
}
failed=0
profile() { # seconds, then what to profile; exit code 3, some case failed, is no reason to stop
  local code=0 deadline=$1
  shift
  "$python" -m lipbench.cli profile --preset "${PRESET:-paper}" --device "$device" --phase-seconds 0.2 \
    --timeout "$round_s" --deadline "$deadline" --out "$run" --resume "$@" || code=$?
  [ "$code" -eq 0 ] || failed=$code
  [ "$code" -eq 0 ] || [ "$code" -eq 3 ] || wrong=1
}
share() { # of the seconds that no later stage and no last round needs, one part in so many, at least one
  local s=$(((budget - report_s - round_s - $2 - SECONDS) / $1))
  echo $((s > 1 ? s : 1))
}
methods_with() { # the methods that have an implementation
  "$python" -c "from lipbench import registry
print(','.join(name for name, method in registry.METHODS.items() if '$1' in method.implementations))"
}

rm -rf "$run"
[ -z "${RESUME:-}" ] || tar -xzf "$RESUME" -C "$out"
networks=${NETWORKS:-XS,S,M,L}
if staged agreement; then
  within 120 agreement.jsonl "$python" bench/agreement.py --device "$device"
  cut -c -240 "$out/agreement.jsonl"
fi
if staged profile && [ -z "${RESUME:-}" ]; then # one round of all methods before anything else
  later=$(($(staged kernels && echo $kernels_s || echo 0) + $(staged memory && echo $memory_s || echo 0)))
  profile "$(share 3 $later)" --rounds 1 --network "$networks"
  profile "$(share 2 $later)" --rounds 1
fi
if staged kernels; then
  # First whether they are right, all at once: that compiles them too, on all cores. Then their times, with the GPU to itself.
  checks=()
  for spot in aol sll soc-step soc bjorck newton; do
    for precision in ieee tf32x3 tf32; do
      timeout "$(left 110)" "$python" -m bench.kernels --check-only --hot-spot "$spot" --precision "$precision" --deadline 45 \
        >"$out/equal-$spot-$precision.jsonl" &
      checks+=("$!:$spot-$precision")
    done
  done
  for check in "${checks[@]}"; do
    code=0
    wait "${check%%:*}" || code=$?
    [ "$code" -ne 124 ] || { echo "equality of ${check#*:}: out of time, what it had found counts" && continue; }
    [ "$code" -eq 0 ] || { wrong=1 && echo "equality of ${check#*:}: exit code $code"; }
  done
  cat "$out"/equal-*.jsonl >"$out/equality.jsonl"
  rm "$out"/equal-*.jsonl
  cut -c -240 "$out/equality.jsonl"
  within 120 kernels.jsonl "$python" -m bench.kernels --deadline 60
  cut -c -400 "$out/kernels.jsonl"
fi
implementations=paper # on a CPU, where this script can only be tried out
[ "$device" = cpu ] || implementations=paper,triton
if staged memory; then
  within 60 memory.txt "$python" -m bench.memory_agreement --device "$device" --network "" --channels 64 \
    --implementation "$implementations"
  cat "$out/memory.txt"
fi
if staged profile; then # kernels, compiled code and second rounds, as far as time allows
  [ "$device" = cpu ] || profile "$(share 3 0)" --rounds 1 --method "$(methods_with triton)" --implementation triton
  profile "$(share 2 0)" --rounds 2 --network "$networks"
  profile "$(share 1 0)" --rounds 2 --compile
fi

if [ -e "$run/run.json" ]; then # the archive first: it must not be lost if the report takes too long
  tar -czf "$out/run.tar.gz" -C "$out" run
  timeout -k 5 $((budget > SECONDS + 30 ? budget - SECONDS : 30)) "$python" -m lipbench.cli report "$run" -o "$out/report.html" || wrong=1
  rm -rf "$run" # its files are in the archive, which is easier to fetch than hundreds of them
fi
echo "checks: exit code $wrong; profile: exit code $failed; $SECONDS s"
ls -l "$out"
exit "$wrong"
