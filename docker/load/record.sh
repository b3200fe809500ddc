#!/bin/sh
# CPU and memory of the application whose process namespace this is, with its children: a log and a picture.
set -eu
# Its first process is an init; the application is the child of that.
pid=$(pgrep --parent 1 --oldest)
name=/recorded/$RECORDED
psrecord "$pid" --include-children --interval 0.5 --duration "$SECONDS_OF_LOAD" --log "$name.txt" --plot "$name.png"
