#!/usr/bin/env bash
# Measurements that need a GPU, in two calls, each of which is useful alone:
#
#   bash bench/gpu.sh smoke    within 200 s: the machine, imports; every kernel × configuration × precision against float64; each
#                              method × implementation measured once; our clock beside triton's; memory beside its prediction.
#                              Ends with at most ten lines that say what is broken. Fix that first.
#   bash bench/gpu.sh full     within 420 s: times of kernels beside what they replace; layers and networks, one round of each,
#                              then more rounds until the deadline; then MACs and certificates; a report if time is left.
#
# Writes only to $OUT (reports/out/gpu): MODE.tar.gz, which is renewed after each stage and has all results so far, MODE.txt with
# the last lines, and report.html if time is left. Needs no network; needs a Python with torch for CUDA, triton and the packages
# of pyproject.toml. If some are missing, their wheels are unpacked from .whl/ for this run only. Two packages have no wheel to
# download; build them beforehand:
#
#   python -m pip wheel --no-deps --constraint constraints.txt --wheel-dir .whl fvcore iopath yacs termcolor
#
# To try the script without a GPU, at tiny sizes and within the same limits: DEVICE=cpu bash bench/gpu.sh smoke
#
#   OUT, WHEELS, PYTHON    output folder, folder of wheels, Python to use (reports/out/gpu, .whl, python3)
#   BUDGET_S               seconds for everything together (195 or 410)
#   STAGES                 the stages of the mode to run (all)
#   RESUME                 a full.tar.gz whose run is resumed
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

mode=${1:-}
case $mode in
  smoke) budget=${BUDGET_S:-195} stages=${STAGES:-machine kernels methods agreement memory} ;;
  full) budget=${BUDGET_S:-410} stages=${STAGES:-machine kernels layers networks rounds certificates report} ;;
  *) echo "bench/gpu.sh: say which mode: got ${mode:-nothing}; give smoke or full" >&2 && exit 2 ;;
esac
python=${PYTHON:-python3}
device=${DEVICE:-cuda}
wheels=${WHEELS:-.whl}
out=${OUT:-reports/out/gpu}
mkdir -p "$out"
out=$(cd "$out" && pwd)

# ------------------------------------------------------------------------------------------------------------ what is measured

if [ "$device" = cpu ]; then # a rehearsal
  export TRITON_INTERPRET=1
  check=(--hot-spot aol --precision ieee)
  times=(--hot-spot aol --shapes 4x5x3 --batch-size 2)
  smoke_sizes=(--channels 4 --image-size 6 --batch-size 2)
  layer_sizes=("4 6" "6,8 4") networks=(XS) network_methods=(--method standard,aol) batch=2 with_kernels=aol
  agreed=(--turns 3 --channels 16) predicted=(--channels 16 --method standard,cayley)
else
  check=() times=(--precision ieee,tf32x3)
  smoke_sizes=(--channels 32 --image-size 16 --batch-size 32)
  layer_sizes=("64 32" "256,512 8") networks=(S M XS L) network_methods=(--method standard,aol,bcop,cayley,cpl,lot,sll,soc) batch=256 with_kernels=
  agreed=(--turns 3) predicted=(--channels 64 --method standard,cayley,lot)
fi

# -------------------------------------------------------------------------------------------------------- where it is kept

scratch=$(mktemp -d)
work="$scratch/$mode"
mkdir "$work"
least=12 # seconds that must be left for a stage to begin
run="$work/run"
codes="$work/stages.txt"
trap 'rm -rf "$scratch"' EXIT
trap 'kill $(jobs -p) 2>/dev/null; archive; exit 143' TERM INT
export PYTHONPATH="$PWD:$PWD/kernels:$PWD/reports${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
export MPLCONFIGDIR="$scratch/matplotlib" TRITON_CACHE_DIR="$scratch/triton" TORCHINDUCTOR_CACHE_DIR="$scratch/inductor"

archive() { # written whole under another name and renamed, so that one archive is good at any moment
  tar -cf - -C "$scratch" "$mode" 2>/dev/null | gzip -1 >"$out/.new" && mv "$out/.new" "$out/$mode.tar.gz"
}
left() { # whole seconds until the end of the budget, minus those kept for later stages
  echo $((budget - SECONDS - ${1:-0}))
}
stage() { # name, seconds kept for later stages, a command: run it within the time, show and keep its output, note its exit code
  local name=$1 limit job waited begin=$SECONDS
  limit=$(left "$2")
  shift 2
  if [ "$limit" -lt $least ]; then
    echo "$name: not begun, $limit s were left" | tee -a "$codes"
    return
  fi
  echo "== $name, at most $limit s"
  { # in the background, so that the archive is renewed meanwhile and a TERM is handled
    timeout --kill-after=5 "$limit" "$@" 2>&1 | tee -a "$work/$name.txt"
    echo "${PIPESTATUS[0]}" >"$scratch/code"
  } &
  job=$!
  waited=0
  while kill -0 "$job" 2>/dev/null; do
    sleep 1
    waited=$((waited + 1))
    [ $((waited % 20)) -ne 0 ] || archive
  done
  wait "$job"
  echo "$name: exit code $(cat "$scratch/code") after $((SECONDS - begin)) s" >>"$codes"
  archive
}
until_deadline() { # seconds after which a stage begins nothing new: some are kept for later stages, and some for its end
  local s=$(($(left "$1") - 8))
  echo $((s > 1 ? s : 1))
}
wanted() { # whether a stage is to be run
  [[ " $stages " == *" $1 "* ]]
}
profile() { # name of the stage, seconds kept, then options of profile; all stages use one run directory
  local name=$1 kept=$2
  shift 2
  stage "$name" "$kept" "$python" -m lipbench.cli profile --device "$device" --out "$run" --resume \
    --deadline "$(until_deadline "$kept")" "$@"
}
methods_with() { # the methods that have an implementation, or those of a rehearsal
  [ -z "$with_kernels" ] || { echo "$with_kernels" && return; }
  "$python" -c "from lipbench import registry
print(','.join(name for name, method in registry.METHODS.items() if '$1' in method.implementations))"
}

if compgen -G "$wheels/*.whl" >/dev/null; then
  "$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$scratch/site" "$wheels"/*.whl ||
    echo "wheels of $wheels: pip failed; going on without them" | tee -a "$codes"
  export PYTHONPATH="$PYTHONPATH:$scratch/site"
fi
if [ -n "${RESUME:-}" ]; then # keep the records; the stages write their texts again
  tar -xzf "$RESUME" -C "$scratch" && rm -f "$work"/*.txt
fi

# --------------------------------------------------------------------------------------------------------------- the stages

wanted machine && stage machine "$([ "$mode" = smoke ] && echo 150 || echo 330)" "$python" -m bench.gpu_machine

if [ "$mode" = smoke ]; then
  wanted kernels && stage kernels 110 "$python" -m bench.kernels --check --deadline "$(until_deadline 110)" ${check[@]+"${check[@]}"}
  if wanted methods; then
    quickly=("${smoke_sizes[@]}" --rounds 1 --phase-seconds 0.05 --timeout 40)
    profile methods 70 --method standard,aol,bcop,cayley,cpl,lot,sll,soc --measure time,memory "${quickly[@]}"
    profile methods 45 --method "$(methods_with triton)" --implementation triton --measure time,memory "${quickly[@]}"
    profile methods 28 --measure macs,certificate
  fi
  wanted agreement && stage agreement 14 "$python" bench/agreement.py --device "$device" "${agreed[@]}"
  wanted memory && stage memory 2 "$python" -m bench.memory_agreement --device "$device" --network "" "${predicted[@]}"
else
  wanted kernels && stage kernels 310 "$python" -m bench.kernels --time --deadline "$(until_deadline 310)" "${times[@]}"
  later=110 # for networks, more rounds, certificates
  briefly=(--batch-size "$batch" --phase-seconds 0.1 --timeout 60 --measure time,memory)
  for sizes in "${layer_sizes[@]}"; do
    read -r channels image <<<"$sizes"
    shape=(--channels "$channels" --image-size "$image" --rounds 1)
    wanted layers || continue
    profile layers $later --method standard,aol,bcop,cayley,cpl,lot,sll,soc "${shape[@]}" "${briefly[@]}"
    profile layers $later --method "$(methods_with triton)" --implementation triton "${shape[@]}" "${briefly[@]}"
  done
  for network in "${networks[@]}"; do
    wanted networks && profile networks 70 "${network_methods[@]}" --network "$network" --rounds 1 "${briefly[@]}"
  done
  wanted rounds && profile rounds 60 --rounds 5 --measure time
  wanted certificates && profile certificates 25 --measure macs,certificate
fi

if [ -e "$run/run.json" ] && [ "$mode" = full ] && wanted report; then
  stage report 4 "$python" -m lipbench.cli report "$run" -o "$work/report.html"
  [ ! -e "$work/report.html" ] || cp "$work/report.html" "$out/report.html"
fi
"$python" -m bench.gpu_summary "$work" | tee "$work/summary.txt" "$out/$mode.txt"
wrong=${PIPESTATUS[0]}
archive
echo "$mode: $SECONDS s; $(cd "$out" && ls -m)"
exit "$wrong"
