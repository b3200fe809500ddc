#!/usr/bin/env bash
# Prepares what the tests run with: a Python environment in .venv, node modules in tests/drivers/node_modules,
# PostgreSQL 14 to 18 in .cache/postgres/MAJOR/bin. Does nothing where that is done already for the same inputs.
set -euo pipefail

# Debian packages, each with a command that succeeds where it isn't needed any more.
DEBIAN_PACKAGES="
postgresql        ls /usr/lib/postgresql/*/bin/pgbench
postgresql-client psql --version
nodejs            node --version
npm               npm --version
python3-venv      python3 -c 'import venv, ensurepip'
tzdata            test -e /usr/share/zoneinfo/Europe/Berlin
slapd             test -x /usr/sbin/slapd
util-linux        setpriv --version
valgrind          valgrind --version
strace            strace --version
"

cd "$(dirname "$0")/.."
# shellcheck source=tests/packages.sh
. tests/packages.sh

hash_of() { # FILE…: one hash of the files' contents and of standard input
    { cat -- "$@"; cat; } | sha256sum | cut -d ' ' -f 1
}

is_done() { # DIRECTORY HASH
    [ "$(cat "$1/.stamp" 2>/dev/null)" = "$2" ]
}

python_environment() {
    local hash includes
    includes=$(sed -n 's/^-r *//p' tests/requirements.txt)
    # shellcheck disable=SC2086 # one file name a word
    hash=$(python3 -c 'import sys; print(sys.executable, sys.version)' | (cd tests && hash_of requirements*.txt $includes))
    is_done .venv "$hash" && return
    echo "preparing .venv …"
    rm -rf .venv
    python3 -m venv .venv
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --requirement tests/requirements.txt
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --target .venv/psycopg3 \
        --requirement tests/requirements-psycopg3.txt
    echo "$hash" >.venv/.stamp
}

node_modules() {
    local hash
    hash=$(node --version | hash_of tests/drivers/package.json tests/drivers/package-lock.json)
    is_done tests/drivers/node_modules "$hash" && return
    echo "preparing tests/drivers/node_modules …"
    npm ci --silent --ignore-scripts --prefix tests/drivers
    echo "$hash" >tests/drivers/node_modules/.stamp
}

postgres_versions() {
    local hash major package
    hash=$(uname -m | hash_of tests/postgres/package.json tests/postgres/package-lock.json)
    is_done .cache/postgres "$hash" && return
    echo "preparing .cache/postgres …"
    rm -rf .cache/postgres
    mkdir -p .cache/postgres
    cp tests/postgres/package.json tests/postgres/package-lock.json tests/postgres/.npmrc .cache/postgres
    npm ci --silent --ignore-scripts --prefix .cache/postgres
    for package in .cache/postgres/node_modules/[0-9]*; do
        major=${package##*/}
        # Packages can't hold the symbolic links of shared libraries: this script of theirs makes them.
        (cd "$package" && node scripts/hydrate-symlinks.js)
        mv "$package/native" ".cache/postgres/$major"
    done
    rm -rf .cache/postgres/node_modules
    # PostgreSQL runs as another user when the tests run as root.
    chmod -R a+rX .cache
    echo "$hash" >.cache/postgres/.stamp
}

install_packages "$DEBIAN_PACKAGES" "please install MISSING (apt-get install MISSING)" 1
python_environment
node_modules
postgres_versions
