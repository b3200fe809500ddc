#!/usr/bin/env bash
# Installs what some faults need. Without it they are skipped, and say so.
set -euo pipefail

PACKAGES="
iproute2     ip -V
iptables     iptables -V
util-linux   unshare -V
procps       pgrep -V
libfaketime  ls /usr/lib/*/faketime/libfaketimeMT.so.1
"

missing=()
while read -r package check; do
    [ -z "$package" ] || sh -c "$check" >/dev/null 2>&1 || missing+=("$package")
done <<<"$PACKAGES"
[ ${#missing[@]} -gt 0 ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "tests/chaos/setup.sh: faults that need ${missing[*]} will be skipped" >&2
    exit 0
fi
echo "installing ${missing[*]} …"
apt-get update -q >/dev/null
DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${missing[@]}" >/dev/null
