#!/usr/bin/env bash
# Installs what is missing on this machine, and says what that is. Arguments say what for:
#   build  the pinned runtime is built (a C compiler and libseccomp for runc)
#   run    a cluster runs
#   test   the tests run too
set -euo pipefail

packages=()
need() { # need PACKAGE TEST...: the package is installed when the test fails
	local package=$1
	shift
	"$@" >/dev/null 2>&1 || packages+=("$package")
}
has() { command -v "$1" || [[ -x /usr/sbin/$1 || -x /sbin/$1 ]]; }

for purpose in "$@"; do
	case $purpose in
	build)
		need gcc has gcc
		need libc6-dev bash -c 'gcc -E - <<<"#include <stdlib.h>"'
		need pkg-config has pkg-config
		need libseccomp-dev pkg-config --exists libseccomp
		need git has git
		;;
	run)
		need nftables has nft
		need iproute2 has ip
		need ca-certificates test -s /etc/ssl/certs/ca-certificates.crt
		need mount has mount
		;;
	test)
		need busybox-static bash -c 'busybox=$(command -v busybox) && ! ldd "$busybox"'
		need e2fsprogs has mkfs.ext4
		need curl has curl
		need procps has ps
		;;
	*)
		echo "deps.sh: unknown purpose $purpose" >&2
		exit 2
		;;
	esac
done
((${#packages[@]})) || exit 0

if ! command -v apt-get >/dev/null; then
	echo "Missing on this machine: ${packages[*]} (these are Debian's names). Install them with your system's package manager, then try again." >&2
	exit 1
fi
sudo=()
if ((EUID != 0)); then
	if ! command -v sudo >/dev/null; then
		echo "Missing on this machine: ${packages[*]}. As root: apt-get install ${packages[*]}" >&2
		exit 1
	fi
	sudo=(sudo)
fi
echo "installing ${packages[*]}"
"${sudo[@]}" apt-get update -qq
"${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}"
