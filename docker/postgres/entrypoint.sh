#!/bin/sh
# Makes the cluster with the demo's database on the first start, and runs PostgreSQL.
set -eu
: "${DATABASE_PASSWORD:?is not set}"

if [ ! -e "$PGDATA/.ready" ]; then
    # What a start that was cut short has left.
    find "$PGDATA" -mindepth 1 -delete
    initdb --username=postgres --auth-local=trust --auth-host=scram-sha-256 --encoding=UTF8 --locale=C.UTF-8 >/dev/null
    echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
    # Nobody else comes in before the database is whole.
    pg_ctl -s -w -o "-c listen_addresses=''" start
    psql -q -v ON_ERROR_STOP=1 -v password="$DATABASE_PASSWORD" <<'SQL'
CREATE ROLE recipes LOGIN PASSWORD :'password';
CREATE DATABASE recipes OWNER recipes;
SQL
    cd /usr/local/share/recipes
    psql -q -v ON_ERROR_STOP=1 -U recipes -c "SET client_min_messages = error" -f schema.sql -f seed.sql recipes >/dev/null
    pg_ctl -s -w stop
    touch "$PGDATA/.ready"
fi
exec postgres -c listen_addresses='*' -c max_connections=100
