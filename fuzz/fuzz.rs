//! One program for all targets of `carpool::fuzzing`; `FUZZ_TARGET` names the one to run. See `make fuzz`.

#![no_main]

use std::sync::LazyLock;

use carpool::fuzzing::{TARGETS, Target};

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    let found = TARGETS.iter().find(|(target, _)| *target == name);
    found.unwrap_or_else(|| panic!("FUZZ_TARGET must name one of {:?}", TARGETS.map(|(name, _)| name))).1
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| TARGET(data));
