#!/usr/bin/env bash
# Builds the pinned container runtime into the directory given: containerd, its runc v2 shim and runc, from the modules that go.mod
# names. Does nothing when what is there was built from the same versions. Needs gcc, pkg-config and libseccomp-dev.
set -euo pipefail

out=$(mkdir -p "$1" && cd "$1" && pwd)
cd "$(dirname "$0")"
go=${GO:-go}

want=$(cat go.mod go.sum build.sh <("$go" version) | sha256sum)
if [[ -f $out/.stamp && $(<"$out/.stamp") == "$want" && -x $out/containerd && -x $out/containerd-shim-runc-v2 && -x $out/runc ]]; then
	exit 0
fi
if ! pkg-config --exists libseccomp; then
	echo "runc needs libseccomp's headers, or every pod with a seccomp profile would fail: make deps" >&2
	exit 1
fi

rm -f "$out/.stamp"
containerd=$("$go" list -m -f '{{.Version}}' github.com/containerd/containerd/v2)
runc=$("$go" list -m -f '{{.Version}}' github.com/opencontainers/runc)
echo "building containerd $containerd and runc $runc into $out (once; about 75 s on two cores)"

# What a node has no use for is left out: other snapshotters, tracing, Intel RDT, talking to systemd.
CGO_ENABLED=0 "$go" build -trimpath -buildvcs=false -tags "no_btrfs no_zfs no_devmapper no_tracing no_rdt no_systemd" \
	-ldflags "-s -w -X github.com/containerd/containerd/v2/version.Version=$containerd" -o "$out/" \
	github.com/containerd/containerd/v2/cmd/containerd github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2
# runc joins namespaces before Go's runtime starts, in C, and filters system calls through libseccomp.
CGO_ENABLED=1 "$go" build -trimpath -buildvcs=false -tags "seccomp" -ldflags "-s -w" -o "$out/runc" github.com/opencontainers/runc

"$out/containerd" --version
"$out/runc" --version | sed -n 1p # which reads to the end: a closed pipe would fail the build
echo "$want" >"$out/.stamp"
