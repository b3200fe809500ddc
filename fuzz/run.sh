#!/bin/sh
# Fuzzes each target for SECONDS (60 unless given) with one job: fuzz/run.sh [SECONDS [TARGET…]]
# Needs Rust, stable or nightly, and a C++ compiler for libFuzzer; the flags are those of cargo-fuzz, which isn't needed,
# without a sanitizer. Ends with the number of inputs of each target. A crash is left in fuzz/artifacts, with what was
# said in TARGET.log; put it into fuzz/regressions/TARGET, where the tests replay it.
set -eu
cd "$(dirname "$0")"
seconds=${1:-60}
[ $# -eq 0 ] || shift
[ $# -gt 0 ] || set -- frame startup sasl toml ini userlist sql hba pipeline tls certificate jwt console trace flight ledger
command -v c++ >/dev/null || { echo "fuzz/run.sh: libFuzzer needs a C++ compiler (Debian: g++)" >&2; exit 1; }
host=$(rustc -vV | sed -n 's/^host: //p')
flags='-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1'
# With --target, build scripts are built without them.
RUSTFLAGS=$(echo $flags) cargo build --release --target "$host"
broken=
for target in "$@"; do
    mkdir -p "corpus/$target" artifacts "regressions/$target"
    log=artifacts/$target.log
    if FUZZ_TARGET=$target "target/$host/release/fuzz" "corpus/$target" "seeds/$target" "regressions/$target" \
        -max_total_time="$seconds" -max_len=4096 -timeout=10 -rss_limit_mb=1024 -print_final_stats=1 \
        -artifact_prefix="artifacts/$target-" >"$log" 2>&1; then
        echo "$target: $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") inputs in $seconds seconds"
    else
        broken="$broken $target"
        echo "$target is broken, see fuzz/$log:"
        grep -E 'ERROR|panicked|Test unit' "$log" || tail -n 5 "$log"
    fi
    rmdir "regressions/$target" 2>/dev/null || true # where it was made just now
done
[ -z "$broken" ]
