//! The `carpool` binary: command line in, exit code out.

fn main() {}
