#!/usr/bin/env bash
# Test and measure on one GPU within nine minutes: the tests marked `gpu`, inference, training, the loader, kernels.
#
#   benchmarks/gpu.sh OUT                        # on a GPU
#   benchmarks/gpu.sh OUT --device cpu --quick   # every line of it on the CPU, with tiny sizes
#
# It needs Python with PyTorch for CUDA, torchaudio and the packages for training, pytest and hypothesis, as make setup
# installs them; the first part names what is missing. The checkout need not be installed. PYTHON chooses the
# interpreter; by default that of .venv, or else python3. flash-attn is tested if it is there.
#
# OUT gets gpu.log and, after each part or row, tests.jsonl, inference.json, training.json, loader.json, parts.jsonl and
# summary.md: a run that is cut off keeps what it has. A part that fails or takes too long does not stop the others; the
# time that one saves is the next one's. The exit code is 1 if a part failed.
set -uo pipefail

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "$0"; exit 2; }

out= device=cuda quick=
while [ $# -gt 0 ]; do
    case $1 in
        --device) device=${2:-}; shift ;;
        --quick) quick=1 ;;
        -*) usage ;;
        *) [ -z "$out" ] || usage; out=$1 ;;
    esac
    shift || usage
done
[ -n "$out" ] && { [ "$device" = cuda ] || [ "$device" = cpu ]; } || usage

mkdir -p "$out" && out=$(cd "$out" && pwd) || exit 1
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root" || exit 1
rm -f "$out"/{gpu.log,tests.jsonl,inference.json,training.json,loader.json,parts.jsonl,summary.md}
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
export PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 SANET_TEST_RESULTS=$out/tests.jsonl
unset SANET_TEST_DEVICE
if [ "$device" = cpu ]; then export SANET_TEST_DEVICE=cpu CUDA_VISIBLE_DEVICES=; fi

# Where the checkout is not installed: the folders as the installed package has them.
if ! "$python" -c 'import importlib.util as u; exit(u.find_spec("sanet_hf.training") is None)' 2>/dev/null; then
    site=$(mktemp -d)
    trap 'rm -rf "$site"' EXIT
    mkdir -p "$site/sanet_hf/training" "$site/sanet_hf-0.dist-info"
    printf 'Metadata-Version: 2.1\nName: sanet-hf\nVersion: 0\n' >"$site/sanet_hf-0.dist-info/METADATA"
    ln -s "$root"/sanet_hf/* "$site/sanet_hf/"
    ln -s "$root"/training/* "$root/configs" "$site/sanet_hf/training/"
    ln -s "$root/benchmarks" "$site/"
    export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH} PYTHONSAFEPATH=1
fi

start=$SECONDS
failed=0
# Run a part: seconds from the start at which it must end, its name, its command. On a CPU there is more time.
part() {
    local end=$1 name=$2 begun=$SECONDS code
    shift 2
    [ "$device" = cpu ] && end=$((10 * end))
    local limit=$((end - (SECONDS - start)))
    printf '\n=== %s (limit %s s)\n' "$name" "$limit" | tee -a "$out/gpu.log"
    if [ "$limit" -lt 5 ]; then
        code=124
    else
        timeout --kill-after=5 "$limit" "$@" >>"$out/gpu.log" 2>&1
        code=$?
    fi
    [ "$code" = 0 ] || failed=1
    printf '{"part": "%s", "code": %d, "seconds": %d}\n' "$name" "$code" $((SECONDS - begun)) >>"$out/parts.jsonl"
    "$python" -m benchmarks.gpu_report summary "$out" >/dev/null 2>>"$out/gpu.log"
    return "$code"
}

clips=(--seconds 4) rounds=(--num_rounds 10 --max_seconds 3) quickly=()
large=256 others=(64 1) compiled=(original sanet compiled) networks=(original sanet optimized compiled ast wav2vec2)
tests=(tests/sanet_hf/test_gpu.py tests/training/test_gpu.py)
if [ -n "$quick" ]; then
    clips=(--seconds 0.1) rounds=() quickly=(--quick) large=3 others=(2)
fi
inference=("$python" -m benchmarks.inference --device "$device" --output "$out/inference.json" --append
    "${clips[@]}" "${rounds[@]}" "${quickly[@]}" --variants "${networks[@]}" --dtypes float32 bfloat16)
training=("$python" -m benchmarks.training --device "$device" --output "$out/training.json" --append
    "${clips[@]}" "${rounds[@]}" "${quickly[@]}" --batch_sizes "$large" "${others[0]}")
pytest=("$python" -m pytest -v -rs --tb=short --durations=10 -o faulthandler_timeout=60 -p no:cacheprovider -m gpu)

if ! part 30 check "$python" -m benchmarks.gpu_report check --device "$device"; then
    cat "$out/gpu.log"
    exit 1
fi
part 105 tests "${pytest[@]}" "${tests[@]}" -k "not compile and not flex"
part 205 "inference, batch $large" "${inference[@]}" --batch_sizes "$large" --inputs features waveforms
part 235 "training, float32" "${training[@]}" --dtypes float32 --variants original sanet
part 320 "training, bfloat16" "${training[@]}" --dtypes bfloat16 --variants "${compiled[@]}"
# Without the cache, as in the first epoch.
part 395 loader "$python" -m benchmarks.loader --output "$out/loader.json" "${quickly[@]}" --cache_audio 0
part 420 kernels "$python" -m benchmarks.kernels --device "$device" --dtypes bfloat16 --batch_sizes "$large" \
    "${clips[@]}" "${quickly[@]}"
part 480 "inference, other batches" "${inference[@]}" --batch_sizes "${others[@]}" --inputs features waveforms
part 540 "tests of compilation" "${pytest[@]}" "${tests[@]}" -k "compile or flex"

cat "$out/summary.md"
exit "$failed"
