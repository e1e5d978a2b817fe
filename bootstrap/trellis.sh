#!/bin/sh
# The command of an installed bundle: starts the daemon, the guard or the CLI with the bundle's own Node.
set -eu
self=$0
while [ -L "$self" ]; do
  link=$(readlink -- "$self")
  case $link in
    /*) self=$link ;;
    *) self=${self%/*}/$link ;;
  esac
done
lib=${self%/*}/../lib
# Compiled code is kept with the bundle by root, and in their own place by others.
if [ -z "${NODE_COMPILE_CACHE-}" ]; then
  if [ -w "$lib" ]; then
    NODE_COMPILE_CACHE=${self%/*}/../cache
  else
    NODE_COMPILE_CACHE=${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/trellis/compile
  fi
  export NODE_COMPILE_CACHE
fi
# The installer runs a bundle once before it moves it to its place: the cache must not go by absolute paths.
export NODE_COMPILE_CACHE_PORTABLE=1
# What keeps an idle daemon small: a small young generation, a heap that is collected before it has doubled, and a C
# library with few arenas that gives back what is free at its end (by itself it stops doing so after the first large
# buffer). With 10,000 services the second saves 50 MB after many edits, the last 20 MB at once.
export MALLOC_ARENA_MAX="${MALLOC_ARENA_MAX-2}"
export MALLOC_TRIM_THRESHOLD_="${MALLOC_TRIM_THRESHOLD_-131072}"
case ${1-} in
  daemon) exec "$lib/node" --max-semi-space-size=1 --heap-growing-percent=100 "$lib/daemon.mjs" "$@" ;;
  # As `guardNodeFlags` in the sources, which say why.
  guard)
    exec "$lib/node" --max-semi-space-size=1 --heap-growing-percent=100 --v8-pool-size=1 --no-parallel-scavenge \
      --no-maglev --max-lazy "$lib/guard.mjs" "$@"
    ;;
  *) exec "$lib/node" "$lib/cli.mjs" "$@" ;;
esac
