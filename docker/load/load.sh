#!/bin/sh
# load [APP…]: what oha tells of each application (by default all three), one after the other.
set -eu
cookie=session=$(printf 'session 7' | md5sum | cut -c 1-32)
[ $# -gt 0 ] || set -- django starlette axum
for app; do
    echo "--- $app"
    oha --no-tui -w -z "${SECONDS_OF_LOAD}s" -c "$CLIENTS" -H "Cookie: $cookie" "$TARGET/$app/api/v1/recipes"
done
