#!/usr/bin/env bash
# Unpacks Debian's containerd, its runc v2 shim and runc into the directory given, for tests with a runtime that is no part of Skiff and
# older than its own. Nothing is installed, so no daemon of the machine is started or replaced. Says so and succeeds where Debian's
# packages are not to be had: the tests then skip themselves.
set -euo pipefail

out=$(mkdir -p "$1" && cd "$1" && pwd)
if [[ -x $out/containerd && -x $out/containerd-shim-runc-v2 && -x $out/runc ]]; then
	exit 0
fi
version=$(apt-cache madison containerd 2>/dev/null | awk '{ print $3; exit }') || true
case $version in
1.6.* | 1.7.*) ;;
*)
	echo "no older containerd: this machine's packages have ${version:-none}" >&2
	exit 0
	;;
esac
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
chmod 755 "$dir"
echo "unpacking Debian's containerd $version and runc into $out (29 MB, once)"
if ! (cd "$dir" && apt-get download -qq containerd runc); then
	echo "no older containerd: the packages cannot be downloaded" >&2
	exit 0
fi
for package in "$dir"/*.deb; do
	dpkg-deb -x "$package" "$dir/root"
done
install "$dir"/root/usr/bin/containerd "$dir"/root/usr/bin/containerd-shim-runc-v2 "$dir"/root/usr/sbin/runc "$out"
