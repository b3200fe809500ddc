#!/usr/bin/env bash
# Prepares what `make showdown` runs with: Debian packages when root, a Python environment in .cache/showdown, oha in
# .cache/oha. Does nothing where that is done already for the same inputs.
set -euo pipefail

OHA_VERSION=1.12.0
# Debian packages, each with a command that succeeds where it isn't needed any more. It goes without those with a "?".
DEBIAN_PACKAGES="
haproxy           haproxy -v
libssl-dev        test -e /usr/include/openssl/ssl.h
make              make --version
pkg-config        pkg-config --version
openssl           openssl version
pgbouncer         pgbouncer --version
postgresql        ls /usr/lib/postgresql/*/bin/pgbench
python3-venv      /usr/bin/python3 -c 'import venv, ensurepip'
util-linux        setpriv --version
?valgrind         valgrind --version
"

cd "$(dirname "$0")/../.."
PATH=$PATH:/usr/sbin

install_packages() {
    local package check can=true missing=()
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || can=false
    while read -r package check; do
        [ -n "$package" ] && ! sh -c "$check" >/dev/null 2>&1 || continue
        case $package in
            '?'*) ! $can || missing+=("${package#?}") ;;
            *) missing+=("$package") ;;
        esac
    done <<<"$DEBIAN_PACKAGES"
    [ ${#missing[@]} -gt 0 ] || return 0
    if ! $can; then
        echo "tests/showdown/setup.sh: please install ${missing[*]} (apt-get install ${missing[*]})" >&2
        exit 1
    fi
    echo "installing ${missing[*]} …"
    apt-get update -q >/dev/null
    # Only the programs are wanted, not that they start.
    RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${missing[@]}" >/dev/null
}

python_environment() {
    local hash
    hash=$(cat tests/showdown/requirements.txt docker/apps/*/requirements.txt | sha256sum)
    [ "$(cat .cache/showdown/.stamp 2>/dev/null)" != "$hash" ] || return 0
    echo "preparing .cache/showdown …"
    rm -rf .cache/showdown
    # Debian's: the applications run as another user, who can't enter root's home, where other ones may be.
    /usr/bin/python3 -m venv .cache/showdown
    .cache/showdown/bin/python -m pip install --quiet --disable-pip-version-check -r tests/showdown/requirements.txt
    chmod -R a+rX .cache/showdown
    echo "$hash" >.cache/showdown/.stamp
}

oha() {
    [ ! -x .cache/oha/bin/oha ] || return 0
    echo "building oha …"
    # Debian's TLS library: the default one takes longer to build than all the rest.
    cargo install oha --version "$OHA_VERSION" --locked --no-default-features --features native-tls --quiet \
        --root .cache/oha
}

mkdir -p .cache
install_packages
python_environment
oha
