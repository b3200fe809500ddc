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

# shellcheck source=tests/packages.sh
. "$(dirname "$0")/../packages.sh"
install_packages "$PACKAGES" "faults that need MISSING will be skipped" 0
