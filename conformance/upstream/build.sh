#!/usr/bin/env bash
# Builds upstream's programs and etcd from the versions in conformance/go.mod: build.sh TARGET-FOLDER [PROGRAM…]
# What is there already is not built again: remove the folder, or `make clean`, to have it new.
set -euo pipefail
to=$(mkdir -p "$1" && cd "$1" && pwd)
shift
programs=("$@")
if [[ ${#programs[@]} -eq 0 ]]; then programs=(etcd kube-apiserver kube-controller-manager kube-scheduler); fi
cd "$(dirname "$0")/.."

# With the developer's own environment, whatever make exports: the e2e program is built from the same packages, and a
# second variant of them costs many minutes.
unset CGO_ENABLED
export GOFLAGS=-buildvcs=false

version=$(${GO:-go} list -m -f '{{.Version}}' k8s.io/kubernetes)
minor=${version#v1.}
v=k8s.io/component-base/version
flags="-s -w -X $v.gitVersion=$version -X $v.gitMajor=1 -X $v.gitMinor=${minor%%.*} -X $v.gitTreeState=clean"
for p in "${programs[@]}"; do
	package=k8s.io/kubernetes/cmd/$p
	if [[ $p == etcd ]]; then package=go.etcd.io/etcd/server/v3; fi
	if [[ -x $to/$p && $to/$p -nt go.mod ]]; then continue; fi
	echo "building $p $version" >&2
	${GO:-go} build -ldflags "$flags" -o "$to/$p.new" "$package"
	mv "$to/$p.new" "$to/$p"
done
