#!/bin/sh
# In a build stage: a C compiler and make, and, unless the image has a Rust toolchain, the newest stable one.
set -eu
apt-get update -q
DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends ca-certificates curl gcc libc6-dev make
command -v cargo >/dev/null || curl -fsS https://sh.rustup.rs | sh -s -- -y -q --profile minimal --no-modify-path
