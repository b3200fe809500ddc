#!/bin/sh
# Fuzzes each target for SECONDS (60 unless given) with one job: fuzz/run.sh [SECONDS [TARGET…]]
# Builds on stable Rust: the flags are those of cargo-fuzz, without a sanitizer. A crash is left in fuzz/artifacts;
# put it into fuzz/regressions/TARGET, where the tests replay it.
set -eu
cd "$(dirname "$0")"
seconds=${1:-60}
[ $# -eq 0 ] || shift
[ $# -gt 0 ] || set -- frame startup sasl toml ini userlist sql hba pipeline tls certificate jwt console
host=$(rustc -vV | sed -n 's/^host: //p')
flags='-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1'
# With --target, build scripts are built without them.
RUSTFLAGS=$(echo $flags) cargo build --release --target "$host"
for target in "$@"; do
    mkdir -p "corpus/$target" "artifacts/$target" "regressions/$target"
    echo "== $target, $seconds seconds"
    FUZZ_TARGET=$target "target/$host/release/fuzz" "corpus/$target" "seeds/$target" "regressions/$target" \
        -max_total_time="$seconds" -max_len=4096 -timeout=10 -rss_limit_mb=1024 -print_final_stats=1 \
        -artifact_prefix="artifacts/$target/" 2>&1 | grep -E 'ERROR|panicked|Test unit|stat::number_of_executed|^Done' || exit 1
done
