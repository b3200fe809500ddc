#!/usr/bin/env bash
# Runs Carpool: before DATABASE_URL, else before a throw-away PostgreSQL that ends with it.
set -euo pipefail
cd "$(dirname "$0")/.."

listen_port=${CARPOOL_PORT:-6432}
http_port=${CARPOOL_HTTP_PORT:-9187}

die() {
    echo "make run: $*" >&2
    exit 1
}

free_port() { # FIRST: the first port from FIRST on that nothing listens on
    local port=$1
    while (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do port=$((port + 1)); done
    echo "$port"
}

find_postgres() { # the directory of the newest initdb
    local bin
    bin=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -n 1)
    [ -n "$bin" ] || bin=$(dirname "$(command -v initdb 2>/dev/null)" 2>/dev/null) || true
    [ -x "$bin/initdb" ] && echo "$bin"
}

need() { # COMMAND PACKAGES…: installs Debian packages where the command is missing
    local command=$1
    shift
    "$command" >/dev/null 2>&1 && return
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || die "please install $* (apt-get install $*)"
    echo "installing $* …"
    { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "$@"; } >/dev/null
}

have_linker() { command -v cc; }

need have_linker gcc libc6-dev
echo "building …"
cargo build --release --quiet
binary=$PWD/target/release/carpool

listen_port=$(free_port "$listen_port")
http_port=$(free_port "$http_port")
options=(--listen-port "$listen_port" --http-port "$http_port")

announce() { # DATABASE SERVER [USER@ [LOGIN]]
    cat <<TEXT

  Carpool is starting in front of $2.

    connect   postgresql://${3:-USER:PASSWORD@}127.0.0.1:$listen_port/$1
    open      http://127.0.0.1:$http_port/${4:+   $4}

  Ctrl-C stops it.

TEXT
}

if [ -n "${DATABASE_URL:-}" ]; then
    path=${DATABASE_URL#*://*/}
    announce "${path%%\?*}" "DATABASE_URL"
    # Away from a ./carpool.toml, should there be one, which would come before DATABASE_URL.
    cd /
    exec "$binary" "${options[@]}"
fi

need find_postgres postgresql
bin=$(find_postgres)
dir=$(mktemp -d "${TMPDIR:-/tmp}/carpool-run-XXXXXX")
as_user=()
if [ "$(id -u)" = 0 ]; then
    # PostgreSQL refuses to run as root.
    chown nobody "$dir"
    as_user=(setpriv --reuid nobody --regid nogroup --clear-groups --)
fi

stop() {
    trap '' INT TERM
    [ -z "${carpool:-}" ] || { kill "$carpool" 2>/dev/null; wait "$carpool" 2>/dev/null; } || true
    "${as_user[@]}" "$bin/pg_ctl" -D "$dir/data" -s -m immediate stop 2>/dev/null || true
    rm -rf "$dir"
}
trap stop EXIT
trap 'exit 0' INT TERM

postgres_port=$(free_port 54320)
echo "starting a throw-away PostgreSQL in $dir …"
cd "$dir"
"${as_user[@]}" "$bin/initdb" -D "$dir/data" -U postgres -A trust -E UTF8 --locale=C --no-sync >/dev/null
"${as_user[@]}" "$bin/pg_ctl" -D "$dir/data" -l "$dir/data/log" -s -w \
    -o "-p $postgres_port -c listen_addresses=127.0.0.1 -c unix_socket_directories=$dir" start

# Everything that the dashboard can show is on, for an admin whose password is of this run.
password=$(od -An -N8 -tx1 /dev/urandom | tr -d ' \n')
(umask 077 && cat >"$dir/carpool.toml") <<TOML
[pooler]
auth_type = "trust"
admin_users = ["admin"]
track_statements = true
advisor = true
[databases.postgres]
host = "127.0.0.1"
port = $postgres_port
[users.postgres]
[users.admin]
password = "$password"
TOML

announce postgres "the throw-away PostgreSQL on port $postgres_port" "postgres@" "log in as admin with $password"
"$binary" "${options[@]}" "$dir/carpool.toml" &
carpool=$!
wait "$carpool"
