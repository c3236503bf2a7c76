#!/usr/bin/env bash
# Usage: scripts/bench_peers.sh [NAME=URL…] [-- flags of `fast-inference serve`]
#        scripts/bench_peers.sh vllm=http://127.0.0.1:8102 llama=http://127.0.0.1:8103 -- --dtype bfloat16
# Starts our server with these flags on a free port and loads it and the peers in turn: 100 random words in, 64 tokens
# out, greedy, 1, 8, 32 and 64 streams. Prints each number and ours over that of each peer, and saves all as JSON.
# Without peers, only ours is measured. Servers stay up throughout and only one is under load at any time; what else runs
# on the machine spoils the numbers, and a peer that spins while it is idle does too: there is a warning where the
# processors are busy before the start.
#
# Environment: CONCURRENCY (1,8,32,64), ROUNDS (3), INPUT_LEN (100), OUTPUT_LEN (64), MODEL (smollm2-135m-instruct),
# OUTPUT (bench-peers-DATE.json), PLOT (none; a PNG).
#
# The peers are started before, each with the same weights (MODEL_DIR: the folder that `fast-inference pull` prints):
#   vLLM:      VLLM_CPU_KVCACHE_SPACE=2 VLLM_CPU_OMP_THREADS_BIND=0-1 OMP_NUM_THREADS=2 HF_HUB_OFFLINE=1 \
#              vllm serve MODEL_DIR --served-model-name m --port 8102 --dtype bfloat16 --max-model-len 2048
#   llama.cpp: llama-server -m MODEL.gguf --port 8103 -t 2 -np 64 -c 65536 --no-webui
# llama.cpp divides -c among its -np slots; with fewer slots than streams, requests wait for each other. Peers whose
# threads spin while they wait (OpenMP) need OMP_WAIT_POLICY=passive, or a run of their own.
set -euo pipefail
repo=$(cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/.." && pwd)
bench="$repo/.venv/bin/fast-inference"
model=${MODEL:-smollm2-135m-instruct}
output=${OUTPUT:-bench-peers-$(date +%Y%m%d-%H%M%S).json}
busy_percent=5

peers=()
while [[ $# -gt 0 && $1 != -- ]]; do
    [[ $1 == ?*=*://* ]] || { echo "error: $1 is no NAME=URL (see the top of $0)" >&2; exit 2; }
    peers+=(--compare "$1")
    shift
done
[[ $# -eq 0 ]] || shift
"$repo/scripts/install"

cpu_ticks() { # idle and all ticks of all processors so far
    awk '/^cpu / { print $5 + $6, $2 + $3 + $4 + $5 + $6 + $7 + $8 + $9 }' /proc/stat
}

warn_if_busy() {
    local idle_before all_before idle_after all_after busy
    read -r idle_before all_before < <(cpu_ticks)
    sleep 3
    read -r idle_after all_after < <(cpu_ticks)
    busy=$((100 - 100 * (idle_after - idle_before) / (all_after - all_before)))
    ((busy <= busy_percent)) || echo "warning: the processors are $busy % busy before any load" >&2
}

folder=$(mktemp -d)
"$bench" serve "$model" --port 0 --run-dir "$folder/run" --log-level warning "$@" >"$folder/out" 2>"$folder/err" &
server=$!
trap 'kill $server 2>/dev/null; wait $server 2>/dev/null; rm -rf "$folder"' EXIT
until grep -q '^ready: ' "$folder/out"; do
    kill -0 $server 2>/dev/null || { cat "$folder/err" >&2; exit 1; }
    sleep 0.2
done
url=$(sed -n 's/^ready: \([^ ]*\).*/\1/p' "$folder/out")

warn_if_busy
"$bench" bench serve --compare "ours=$url" "${peers[@]}" --concurrency "${CONCURRENCY:-1,8,32,64}" \
    --input-len "${INPUT_LEN:-100}" --output-len "${OUTPUT_LEN:-64}" --rounds "${ROUNDS:-3}" --output "$output" \
    ${PLOT:+--plot "$PLOT"}
echo "saved $output"
