#!/usr/bin/env bash
# Usage: scripts/bench_wait_policy.sh [flags of `fast-inference serve`]
# How long the model's threads should spin before they sleep, when they wait for each other and for the next step. Starts
# one server (two frontends) for each setting below, one after the other, loads it with 1, 8 and 32 streams (100 words
# in, 64 tokens out, greedy), and prints what `fast-inference bench serve` does, and the CPU time of the idle server.
# The first setting comes again at the end: how far both are apart is the noise. Nothing else may run on the machine.
#
# Environment: CONCURRENCY (1,8,32), ROUNDS (2), MODEL (smollm2-135m-instruct), SETTINGS (below).
set -euo pipefail
repo=$(cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/.." && pwd)
bench="$repo/.venv/bin/fast-inference"
model=${MODEL:-smollm2-135m-instruct}
settings=${SETTINGS:-DEFAULT=1 GOMP_SPINCOUNT=1000 GOMP_SPINCOUNT=10000 GOMP_SPINCOUNT=100000 OMP_WAIT_POLICY=passive OMP_WAIT_POLICY=active DEFAULT=1}
idle_s=5
"$repo/scripts/install"

folder=$(mktemp -d)
server=
trap '[[ -z $server ]] || { kill "$server"; wait "$server"; } 2>/dev/null; rm -rf "$folder"' EXIT

ticks_of_group() { # CPU time of the launcher and its children
    cat "/proc/$server/stat" $(pgrep -P "$server" | sed 's|.*|/proc/&/stat|') | awk '{ sum += $14 + $15 } END { print sum }'
}

for setting in $settings; do
    : >"$folder/out"
    env "$setting" "$bench" serve "$model" --port 0 --run-dir "$folder/run" --log-level warning "$@" \
        >"$folder/out" 2>"$folder/err" &
    server=$!
    until grep -q '^ready: ' "$folder/out"; do
        kill -0 "$server" 2>/dev/null || { cat "$folder/err" >&2; exit 1; }
        sleep 0.2
    done
    url=$(sed -n 's/^ready: \([^ ]*\).*/\1/p' "$folder/out")
    echo "── $setting"
    "$bench" bench serve --url "$url" --concurrency "${CONCURRENCY:-1,8,32}" --input-len 100 --output-len 64 \
        --rounds "${ROUNDS:-2}"
    before=$(ticks_of_group)
    sleep "$idle_s"
    echo "idle: $((($(ticks_of_group) - before) * 1000 / $(getconf CLK_TCK))) ms of CPU time in $idle_s s"
    kill "$server"
    wait "$server" || true
    server=
done
