#!/usr/bin/env bash
# Prints the figures of a cluster's start and of an idle server (docs/benchmarks.md). Needs root, and bin/ as `make build` leaves it.
set -euo pipefail
cd "$(dirname "$0")/.."
export KUBECONFIG
KUBECONFIG=$(mktemp)
name=figures-$$
trap 'bin/skiff down --name "$name" >/dev/null; rm -f "$KUBECONFIG"' EXIT

echo "control plane alone, empty data (seconds per step; GOGC and GOMEMLIMIT are Go's defaults):"
bin/skiff up --name "$name" --nodes 0 | grep -E 'ready'
server=$(bin/skiff status --name "$name" -o json | grep -A1 '"name": "server"' | grep -oE '[0-9]+')
sleep 20 # what a start leaves to be done is over by then
ticks() { awk '{print $14 + $15}' "/proc/$server/stat"; }
before=$(ticks)
sleep 30
after=$(ticks)
awk -v t=$((after - before)) -v hz="$(getconf CLK_TCK)" 'BEGIN { printf "idle server: %.2f %% of a core\n", 100 * t / hz / 30 }'
awk '/VmRSS|RssAnon/ { printf "idle server: %s %.0f MiB\n", $1, $2 / 1024 }' "/proc/$server/status"
bin/skiff down --name "$name" >/dev/null

begin=$(date +%s%N)
bin/skiff up --name "$name" --nodes 1 >/dev/null
up=$(($(date +%s%N) - begin))
bin/skiff image build --name "$name" --tag example/web:v1 ./examples/web >/dev/null
begin=$(date +%s%N)
kubectl run web --image=example/web:v1 >/dev/null
kubectl wait --for=condition=Ready pod/web --timeout=30s >/dev/null
pod=$(($(date +%s%N) - begin))
awk -v up="$up" -v pod="$pod" 'BEGIN { printf "skiff up with one node %.2f s, first pod ready %.2f s after it was made (image present), together %.2f s\n", up / 1e9, pod / 1e9, (up + pod) / 1e9 }'
stat -c 'bin/skiff: %s bytes' bin/skiff
