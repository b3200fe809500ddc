#!/bin/sh
# The password comes from the environment, so that the image has none.
set -eu
umask 077
printf '"recipes" "%s"\n' "${DATABASE_PASSWORD:?is not set}" >/tmp/userlist.txt
exec pgbouncer /etc/pgbouncer/demo.ini
