#!/usr/bin/env bash
# Builds stock kubectl into the file given, unless it is there from the same version. A second argument names an older
# minor version: 1.35 is built from 1.35.mod.
set -euo pipefail

file=$(mkdir -p "$(dirname "$1")" && cd "$(dirname "$1")" && pwd)/$(basename "$1")
cd "$(dirname "$0")"
go=${GO:-go}

mod=${2:+-modfile=$2.mod}

module=$("$go" list ${mod:+"$mod"} -m -f '{{.Version}}' k8s.io/kubectl) # v0.37.2 is Kubernetes v1.37.2
version=v1.${module#v0.}
if [[ -x $file ]] && "$file" version --client 2>/dev/null | grep -qF "Client Version: $version"; then
	exit 0
fi
minor=${version#v1.}
echo "building kubectl $version into $file (once; about 100 s on two cores)"
p=k8s.io/component-base/version
CGO_ENABLED=0 "$go" build ${mod:+"$mod"} -trimpath -buildvcs=false -ldflags "-s -w -X $p.gitVersion=$version -X $p.gitMajor=1 -X $p.gitMinor=${minor%%.*} -X $p.gitTreeState=clean" -o "$file" .
