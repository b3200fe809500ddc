#!/usr/bin/env bash
# Prepares what the dashboard's check runs with: Chromium, and node modules in tests/dashboard/node_modules.
set -euo pipefail

cd "$(dirname "$0")"

if ! command -v chromium >/dev/null; then
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "tests/dashboard/setup.sh: please install chromium, or name it with --chromium" >&2
        exit 1
    fi
    apt-get update -q >/dev/null
    DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends chromium >/dev/null
fi
[ node_modules/.package-lock.json -nt package-lock.json ] || npm ci --no-audit --no-fund --silent
# Ten thousand sockets here, and as many in Carpool.
[ "$(ulimit -n)" = unlimited ] || [ "$(ulimit -n)" -ge 12000 ] || echo "raise ulimit -n to 12000, or use --clients" >&2
