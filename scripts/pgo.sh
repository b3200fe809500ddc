#!/usr/bin/env bash
# Builds FILE: a release build that the compiler has optimized by what a first one did under load (PGO).
# It takes a fifth fewer instructions for a transaction, and half of the cache lines of code. The load is that of
# `make bench`, for half a minute, before a PostgreSQL of its own.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${1:-target/pgo/carpool-pgo}
python=${PYTHON:-python3}

die() {
    echo "make pgo: $*" >&2
    exit 1
}

llvm=$(rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')
host=$(rustc -vV | sed -n 's/^host: //p')

profdata() { # llvm-profdata of the compiler's LLVM: profiles of another can't be read
    local candidate
    for candidate in "$(rustc --print sysroot)/lib/rustlib/$host/bin/llvm-profdata" \
        "/usr/lib/llvm-$llvm/bin/llvm-profdata"; do
        [ -x "$candidate" ] && echo "$candidate" && return
    done
    return 1
}

if ! profdata >/dev/null; then
    echo "installing llvm-profdata of LLVM $llvm …"
    # From the toolchain, or else from the distribution.
    rustup component add llvm-tools >/dev/null 2>&1 ||
        { [ "$(id -u)" = 0 ] && apt-get update -q && apt-get install -qy --no-install-recommends "llvm-$llvm"; } >/dev/null 2>&1 ||
        true
fi
profdata=$(profdata) || die "needs llvm-profdata of LLVM $llvm: rustup component add llvm-tools, or apt-get install llvm-$llvm"

work=$(mktemp -d "${TMPDIR:-/tmp}/carpool-pgo-XXXXXX")
trap 'rm -rf "$work"' EXIT
# PostgreSQL and poolers run unprivileged.
chmod 755 "$work" && mkdir -m 1777 "$work/raw"

build() { # FLAGS: leaves target/pgo/HOST/release/carpool
    RUSTFLAGS="${RUSTFLAGS:-} $1" cargo build --release --quiet --locked --bin carpool --target "$host" --target-dir target/pgo
}

echo "building with counters …"
build "-Cprofile-generate=$work/raw"
cp "target/pgo/$host/release/carpool" "$work/carpool"
echo "running it under load …"
# The rows weigh about what they do in practice: most transactions are one simple or prepared query.
LLVM_PROFILE_FILE="$work/raw/%p-%m.profraw" "$python" tests/bench/bench.py --carpool "$work/carpool" --workers 1 \
    --alone --rounds 1 --seconds 2 --rows 'simple-*,extended-*,prepared-*,select1-50,large-8,connect-8,tls-simple-50' >"$work/log" 2>&1 || { tail -n 20 "$work/log" >&2; die "the load failed"; }
"$profdata" merge --output "$work/carpool.profdata" "$work"/raw/*.profraw
echo "building …"
# Functions that the load has never reached are no fault.
build "-Cprofile-use=$work/carpool.profdata -Cllvm-args=-pgo-warn-missing-function=false"
cp "target/pgo/$host/release/carpool" "$target"
echo "$target"
