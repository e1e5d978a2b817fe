#!/bin/sh
# Installs the first host of a cluster from a clone or from a bundle, or takes an installation away again.
#
#   install.sh [--bundle FILE] [--name CLUSTER] [--advertise IP] [--no-engine] [--force]
#   install.sh uninstall [--engine]
#
# With --name a cluster of one is made at once; without it, `trellis init --name NAME` does that later. From a clone the
# bundle is built first, which needs some Node and npm; from an unpacked bundle nothing else is needed.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=bootstrap/install-common.sh
. "$here/install-common.sh"

# The numbers of crdt/minimums.ts; a test compares them.
min_cpus=1
min_memory_mib=440
min_disk_mib=1024
min_kernel=4.19
min_engine=20.10
ports='7440 8443'

usage() {
  sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
  exit 2
}

read_options() {
  bundle=
  name=
  advertise=
  no_engine=0
  force=0
  while [ $# -gt 0 ]; do
    case $1 in
      --bundle) bundle=${2-}; shift ;;
      --name) name=${2-}; shift ;;
      --advertise) advertise=${2-}; shift ;;
      --no-engine) no_engine=1 ;;
      --force) force=1 ;;
      *) usage ;;
    esac
    [ $# -gt 0 ] || usage
    shift
  done
  case $advertise in *[!0-9a-fA-F.:]*) fail 2 '--advertise takes an address' ;; esac
  daemon_flags=${advertise:+--advertise $advertise}
}

# Into $staging/trellis: the named bundle, the one this script came with, or one built from the clone.
unpack_bundle() {
  make_staging
  if [ -z "$bundle" ] && [ -f "$here/../bundle.json" ]; then
    mkdir "$staging/trellis"
    for part in VERSION bundle.json bin lib share; do cp -R "$here/../$part" "$staging/trellis/"; done
    [ ! -f "$here/../bundle.tar.gz" ] || cp "$here/../bundle.tar.gz" "$staging/trellis/"
    return 0
  fi
  if [ -z "$bundle" ]; then
    have node || fail 1 'building from a clone needs node (18 or newer) and npm; or name a bundle with --bundle'
    say 'building the bundle from this clone'
    node "$here/run.mjs" build >&2
    bundle=$(ls -t "$here/../dist"/trellis-*-linux-"$arch".tar.gz | head -n 1)
  fi
  [ -r "$bundle" ] || fail 2 "cannot read $bundle"
  if [ -r "$bundle.sha256" ]; then
    (cd "$(dirname "$bundle")" && sha256sum -c "$(basename "$bundle").sha256" >/dev/null) ||
      fail 1 "$bundle is not what $bundle.sha256 names"
  fi
  cp "$bundle" "$staging/bundle.tar.gz"
  unpack "$staging/bundle.tar.gz"
}

install_host() {
  read_options "$@"
  need_root
  begin
  if [ -x "$link" ] && daemon_answers; then
    fail 3 'Trellis runs here already; look with: trellis info. To take it away: install.sh uninstall'
  fi
  require_minimums
  unpack_bundle
  place_bundle "$staging/trellis"
  ensure_engine
  start_service
  if [ -n "$name" ]; then
    "$link" init --name "$name" || fail 1 'the cluster could not be made; see the line above'
  fi
  undo_steps=
  drop_other_versions
  say "installed $version; look with: trellis info"
  [ -n "$name" ] || say 'now make a cluster with: trellis init --name NAME'
}

# Leaves nothing of Trellis. An engine that was installed for it stays unless --engine is given: others may use it by now.
uninstall_host() {
  no_engine=1
  case ${1-} in
    '') ;;
    --engine) no_engine=0 ;;
    *) usage ;;
  esac
  need_root
  packages=$(cat "$prefix/engine-packages" 2>/dev/null) || packages=
  if [ -x "$link" ] && daemon_answers; then
    "$link" leave --yes --force >&2 || say 'leaving the cluster failed; going on with the removal'
  fi
  set +e
  stop_service
  if [ "$(readlink "$link" 2>/dev/null | cut -c "1-${#prefix}")" = "$prefix" ]; then rm -f "$link"; fi
  rm -rf "$state" "$run" "$etc"
  if [ -n "$packages" ] && [ "$no_engine" = 0 ]; then
    say "removing the engine that was installed for it: $packages"
    remove_engine "$packages"
  elif [ -n "$packages" ]; then
    say "the container engine stays; to remove it too: apt-get purge $packages"
  fi
  rm -rf "$prefix"
  say 'removed'
}

case ${1-} in
  uninstall) shift; uninstall_host "$@" ;;
  -h | --help) usage ;;
  *) install_host "$@" ;;
esac
