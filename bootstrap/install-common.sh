# What the one-line installer and install.sh share: checks, files, engine, service, and the way back.
#
# POSIX sh, for dash and busybox too. Every step that changes the machine first records how it is taken back, so that a
# failure at any point leaves what was there before. Set `set -eu` before reading this.

prefix=/usr/local/lib/trellis
link=/usr/local/bin/trellis
state=/var/lib/trellis
run=/run/trellis
etc=/etc/trellis
log=/var/log/trellis.log
units=/etc/systemd/system

say() { printf 'trellis: %s\n' "$*" >&2; }

# exit codes as the command has them: 1 failed, 2 wrong usage, 3 refused
fail() {
  fail_code=$1
  shift
  say "$*"
  exit "$fail_code"
}

have() { command -v "$1" >/dev/null 2>&1; }

# ---- the way back ------------------------------------------------------------------------------------------------

undo_steps=

# Adds a step (a function name) that is run if a later one fails; the newest is run first.
on_failure() { undo_steps="$1 $undo_steps"; }

# Called by the EXIT trap with the exit status.
take_back() {
  trap - EXIT HUP INT TERM
  set +e
  if [ "$1" -ne 0 ] && [ -n "$undo_steps" ]; then
    say 'taking back what was done'
    for step in $undo_steps; do "$step"; done
    say 'nothing of this installation is left'
  fi
  [ -z "${work-}" ] || rm -rf "$work"
  exit "$1"
}

begin() {
  work=$(mktemp -d)
  trap 'take_back $?' EXIT
  trap 'exit 129' HUP
  trap 'exit 130' INT
  trap 'exit 143' TERM
}

# ---- what the host must have -------------------------------------------------------------------------------------

need_root() {
  [ "$(uname -s)" = Linux ] || fail 1 "hosts run Linux; this is $(uname -s)"
  [ "$(id -u)" = 0 ] || fail 3 'installing needs root; run the same line as root, with sudo or with su'
  case $(uname -m) in
    x86_64) arch=x64 ;;
    aarch64) arch=arm64 ;;
    *) fail 3 "no bundle for processors of kind $(uname -m); there are x86_64 and aarch64" ;;
  esac
}

# older_than HAVE NEED: compares major.minor
older_than() {
  awk -v have="$1" -v need="$2" 'BEGIN {
    split(have, h, /[^0-9]/); split(need, n, /[^0-9]/)
    exit !(h[1] + 0 < n[1] + 0 || (h[1] + 0 == n[1] + 0 && h[2] + 0 < n[2] + 0))
  }'
}

# Nearest directory that exists.
existing() {
  place=$1
  while [ ! -d "$place" ]; do place=${place%/*}; place=${place:-/}; done
  printf '%s\n' "$place"
}

free_mebibytes() { df -Pk "$(existing "$1")" | awk 'NR == 2 { print int($4 / 1024) }'; }

short() { shortfalls="$shortfalls
  $1: have $2, need at least $3"; }

# Lists every shortfall at once in $shortfalls. Uses min_*, ports and no_engine.
find_shortfalls() {
  shortfalls=
  found=$(getconf _NPROCESSORS_ONLN 2>/dev/null || grep -c '^processor' /proc/cpuinfo)
  [ "$found" -ge "$min_cpus" ] || short cpu "$found" "$min_cpus"
  found=$(awk '/^MemTotal:/ { print int($2 / 1024) }' /proc/meminfo)
  [ "$found" -ge "$min_memory_mib" ] || short memory "$found MiB" "$min_memory_mib MiB"
  found=$(free_mebibytes "$state")
  [ "$found" -ge "$min_disk_mib" ] || short disk "$found MiB free at $state" "$min_disk_mib MiB"
  found=$(free_mebibytes "$prefix")
  [ "$found" -ge 400 ] || short disk "$found MiB free at $prefix" '400 MiB'
  found=$(uname -r)
  ! older_than "$found" "$min_kernel" || short kernel "$found" "$min_kernel"
  # The bundle's Node is linked against glibc.
  found=$(getconf GNU_LIBC_VERSION 2>/dev/null | awk '{ print $2 }') || found=
  if [ -z "$found" ]; then short 'C library' 'no glibc' 'glibc 2.28'
  elif older_than "$found" 2.28; then short 'C library' "glibc $found" 'glibc 2.28'; fi
  for port in $ports; do
    ! is_listening "$port" || shortfalls="$shortfalls
  port $port: in use by another process, must be free"
  done
  have iptables || [ "$no_engine" = 1 ] || have apt-get || short iptables none 'iptables 1.8'
  find_engine_shortfall
}

# is_listening PORT: somebody accepts TCP connections there (state 0A), on whatever address
is_listening() {
  cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | awk -v port="$(printf ':%04X' "$1")" '
    $4 == "0A" && substr($2, length($2) - 4) == port { found = 1 }
    END { exit !found }'
}

# Version of the engine that answers; empty when none does.
engine_version() {
  have docker || return 0
  timeout 10 docker version --format '{{.Server.Version}}' 2>/dev/null | grep -m 1 '^[0-9]' || true
}

find_engine_shortfall() {
  install_engine=0
  found=$(engine_version)
  if [ -n "$found" ]; then
    ! older_than "$found" "$min_engine" || short 'container engine' "$found" "$min_engine"
  elif [ "$no_engine" = 1 ]; then
    say 'no container engine answers here; going on without one, as asked (--no-engine)'
  elif have dockerd; then
    install_engine=start
  elif ! have apt-get; then
    short 'container engine' none "$min_engine (installing it is known for Debian only)"
  elif engine_packages_available; then
    install_engine=1
  else
    short 'container engine' 'none, and no package source answers' "$min_engine"
  fi
}

apt_quiet() {
  DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=120 -o Acquire::Retries=0 \
    -o Acquire::http::Timeout=10 -o Acquire::https::Timeout=10 "$@" </dev/null
}

# Downloads without installing: the only honest answer to "could it be installed?".
engine_packages_available() {
  say 'no container engine here: looking whether one can be installed'
  if apt_quiet install -y --no-install-recommends --download-only docker.io iptables >/dev/null 2>&1; then return 0; fi
  apt_quiet update >/dev/null 2>&1 || true
  apt_quiet install -y --no-install-recommends --download-only docker.io iptables >/dev/null 2>&1
}

require_minimums() {
  find_shortfalls
  [ -n "$shortfalls" ] || return 0
  if [ "$force" = 1 ]; then
    say "this host is below the minimum; going on because of --force:$shortfalls"
  else
    fail 3 "this host is below the minimum; nothing was installed:$shortfalls"
  fi
}

# ---- the bundle --------------------------------------------------------------------------------------------------

# place_bundle DIR: puts the unpacked bundle into its place and links the command.
place_bundle() {
  version=$(cat "$1/VERSION")
  case $version in '' | *[!A-Za-z0-9.+-]*) fail 1 "the bundle names no usable version" ;; esac
  # Proves that it runs on this machine, and warms the compile cache.
  for program in '' daemon; do
    # shellcheck disable=SC2086
    "$1/bin/trellis" $program --version >/dev/null || fail 1 'the bundle does not run on this machine; see the lines above'
  done
  home=$prefix/$version
  replaced=
  on_failure undo_place
  if [ -e "$home" ]; then
    replaced=$prefix/.replaced-$$
    mv "$home" "$replaced"
  fi
  mv "$1" "$home"
  previous_link=$(readlink "$link" 2>/dev/null) || previous_link=
  if [ -e "$link" ] && [ -z "$previous_link" ]; then fail 3 "$link exists and is not ours; move it away"; fi
  mkdir -p "${link%/*}"
  on_failure undo_link
  ln -sfn "$home/bin/trellis" "$link"
}

undo_place() {
  if [ -z "$replaced" ] || [ -e "$replaced" ]; then rm -rf "$home"; fi
  [ -z "$replaced" ] || [ ! -e "$replaced" ] || mv "$replaced" "$home"
}

undo_link() {
  if [ -n "$previous_link" ]; then ln -sfn "$previous_link" "$link"; else rm -f "$link"; fi
}

# A directory for unpacking on the file system where the bundle will live, so that the last step is a rename.
make_staging() {
  had_prefix=1
  [ -d "$prefix" ] || had_prefix=0
  on_failure undo_staging
  mkdir -p "$prefix"
  staging=$(mktemp -d "$prefix/.new-XXXXXX")
}

undo_staging() {
  rm -rf "$staging"
  [ "$had_prefix" = 1 ] || rm -rf "$prefix"
}

# unpack ARCHIVE: into $staging/trellis. The archive stays with it, so that this host can hand it on at once.
unpack() {
  tar -xzf "$1" -C "$staging"
  mv "$1" "$staging/trellis/bundle.tar.gz"
}

# Older versions and leftovers, once the new one works.
drop_other_versions() {
  rm -rf "$staging" ${replaced:+"$replaced"}
  for other in "$prefix"/* "$prefix"/.replaced-* "$prefix"/.new-*; do
    case $other in "$home" | "$prefix/engine-packages") continue ;; esac
    [ ! -d "$other" ] || rm -rf "$other"
  done
}

# ---- the container engine ----------------------------------------------------------------------------------------

ensure_engine() {
  case $install_engine in
    0) return 0 ;;
    1) install_engine_packages ;;
    start) on_failure stop_engine ;;
  esac
  [ -n "$(engine_version)" ] || start_engine
}

install_engine_packages() {
  engine_packages=$(apt_quiet -s install --no-install-recommends docker.io iptables | awk '/^Inst / { printf "%s ", $2 }')
  forward_policy=$(iptables -S FORWARD 2>/dev/null | awk '$1 == "-P" { print $3 }') || forward_policy=
  had_docker_data=0
  [ ! -e /var/lib/docker ] || had_docker_data=1
  on_failure undo_engine
  # shellcheck disable=SC2086
  say "installing a container engine:" $engine_packages
  mkdir -p /etc/docker
  had_engine_config=1
  if [ ! -e /etc/docker/daemon.json ]; then
    had_engine_config=0
    # Containers live on while the engine is restarted or upgraded.
    printf '{ "live-restore": true }\n' >/etc/docker/daemon.json
  fi
  apt_quiet install -y --no-install-recommends docker.io iptables >"$work/apt.log" 2>&1 || {
    tail -n 5 "$work/apt.log" >&2
    fail 1 'the container engine could not be installed; the lines above say why'
  }
  printf '%s\n' "$engine_packages" >"$prefix/engine-packages"
}

undo_engine() {
  remove_engine "$engine_packages"
  [ -z "$forward_policy" ] || iptables -P FORWARD "$forward_policy" 2>/dev/null
}

# remove_engine PACKAGES: only ever called for an engine that we installed.
remove_engine() {
  stop_engine
  # shellcheck disable=SC2086
  [ -z "$1" ] || apt_quiet purge -y $1 >/dev/null 2>&1
  [ "${had_engine_config-0}" = 1 ] || rm -f /etc/docker/daemon.json
  [ "${had_docker_data-0}" = 1 ] || rm -rf /var/lib/docker /var/lib/containerd
  rmdir /etc/docker 2>/dev/null
  ip link delete docker0 2>/dev/null
  for table in nat filter; do
    # Rules that lead to the engine's chains first, then the chains.
    iptables -t "$table" -S 2>/dev/null | grep -E -- '^-A .*(DOCKER|docker0)' | sed 's/^-A/-D/' |
      while read -r rule; do
        # shellcheck disable=SC2086
        iptables -t "$table" $rule 2>/dev/null
      done
    for chain in $(iptables -t "$table" -S 2>/dev/null | awk '$1 == "-N" && $2 ~ /^DOCKER/ { print $2 }'); do
      iptables -t "$table" -F "$chain" 2>/dev/null
      iptables -t "$table" -X "$chain" 2>/dev/null
    done
  done
  return 0
}

stop_engine() {
  if [ -d /run/systemd/system ]; then systemctl stop docker docker.socket containerd 2>/dev/null
  elif [ -s /var/run/docker.pid ]; then stop_process "$(cat /var/run/docker.pid)" dockerd; fi
  return 0
}

start_engine() {
  say 'starting the container engine'
  if [ -d /run/systemd/system ]; then
    systemctl enable --now docker >/dev/null 2>&1 || true
  elif have rc-service && [ -e /etc/init.d/docker ]; then
    rc-update add docker default >/dev/null 2>&1 || true
    rc-service docker start >/dev/null 2>&1 || true
  else
    setsid dockerd >>/var/log/dockerd.log 2>&1 </dev/null &
    say 'no service manager here: the engine was started detached (log: /var/log/dockerd.log); start dockerd at boot'
  fi
  wait_until 60 'the container engine' engine_answers
}

engine_answers() { [ -n "$(engine_version)" ]; }

# wait_until SECONDS WHAT COMMAND...: looks once a second; says every ten what it waits for
wait_until() {
  wait_left=$1
  wait_what=$2
  shift 2
  until "$@"; do
    [ "$wait_left" -gt 0 ] || fail 1 "$wait_what is not there in time"
    [ $((wait_left % 10)) -ne 0 ] || say "waiting for $wait_what"
    wait_left=$((wait_left - 1))
    sleep 1
  done
}

# ---- the service -------------------------------------------------------------------------------------------------

service_kind() {
  if [ -d /run/systemd/system ] && have systemctl; then echo systemd
  elif have openrc-run && have rc-service; then echo openrc
  else echo none; fi
}

# Starts the daemon now and at every boot. Uses daemon_flags.
start_service() {
  had_state=1
  [ -e "$state" ] || had_state=0
  had_etc=1
  [ -e "$etc" ] || had_etc=0
  had_service=0
  if [ -e "$units/trellis.service" ] || [ -e /etc/init.d/trellis ]; then had_service=1; fi
  on_failure undo_service
  mkdir -p "$etc"
  [ -z "$daemon_flags" ] || printf 'TRELLIS_DAEMON_FLAGS="%s"\n' "$daemon_flags" >"$etc/daemon.env"
  case $(service_kind) in
    systemd)
      write_systemd_units
      systemctl daemon-reload
      systemctl enable --quiet trellis-forwarding.service
      systemctl enable --quiet --now trellis-guard.service trellis.service
      ;;
    openrc)
      write_openrc_script
      rc-update add trellis default >/dev/null
      rc-service trellis start >/dev/null
      ;;
    none) start_detached ;;
  esac
  wait_until 30 'the daemon' daemon_answers_or_died
}

daemon_answers_or_died() {
  daemon_answers && return 0
  if [ -s "$run/daemon.pid" ] && [ ! -d "/proc/$(cat "$run/daemon.pid")" ]; then
    tail -n 3 "$log" >&2
    fail 1 'the daemon ended at once; the lines above say why'
  fi
  return 1
}

daemon_answers() { "$link" info --json >/dev/null 2>&1; }

start_detached() {
  mkdir -p "$run"
  chmod 700 "$run"
  # shellcheck disable=SC2086
  setsid "$link" daemon $daemon_flags >>"$log" 2>&1 </dev/null &
  printf '%s\n' "$!" >"$run/daemon.pid"
  say "no service manager here: the daemon was started detached (log: $log)"
  say "at boot run, before the container engine: sh $state/plugins/names/restore.sh; and after it: $link daemon $daemon_flags"
}

undo_service() {
  # An upgrade that failed: the service is as it was, and starts what the link leads to again.
  if [ "$had_service" = 1 ]; then return 0; fi
  stop_service
  [ "$had_state" = 1 ] || rm -rf "$state"
  [ "$had_etc" = 1 ] || rm -rf "$etc"
  rm -rf "$run"
}

# Stops the daemon and removes what starts it. Containers are not touched.
stop_service() {
  case $(service_kind) in
    systemd)
      systemctl disable --quiet --now trellis.service trellis-guard.service trellis-forwarding.service 2>/dev/null
      rm -f "$units/trellis.service" "$units/trellis-guard.service" "$units/trellis-forwarding.service" \
        "$units/trellis-guard.slice"
      systemctl daemon-reload
      ;;
    openrc)
      rc-service trellis stop >/dev/null 2>&1
      rc-update del trellis >/dev/null 2>&1
      rm -f /etc/init.d/trellis
      ;;
  esac
  if [ -s "$run/daemon.pid" ]; then stop_process "$(cat "$run/daemon.pid")" trellis; fi
  # What would start the guard again goes first.
  if [ -s "$run/guard/keeper.pid" ]; then stop_process "$(cat "$run/guard/keeper.pid")" trellis-keeper; fi
  if [ -s "$run/guard/guard.pid" ]; then stop_process "$(cat "$run/guard/guard.pid")" guard; fi
  if have nft; then
    for table in $(nft list tables ip 2>/dev/null | awk '$3 ~ /^trellis_x_/ { print $3 }'); do
      nft delete table ip "$table"
    done
  fi
  rm -f "$log"
  return 0
}

# stop_process PID WORD: ends it if its command line has the word; waits, then kills.
stop_process() {
  tr '\0' ' ' <"/proc/$1/cmdline" 2>/dev/null | grep -q -- "$2" || return 0
  kill "$1" 2>/dev/null
  for _ in 1 2 3 4 5 6 7 8 9 10; do
    [ -d "/proc/$1" ] || return 0
    sleep 1
  done
  kill -9 "$1" 2>/dev/null
  return 0
}

write_systemd_units() {
  cat >"$units/trellis.service" <<'UNIT'
[Unit]
Description=Trellis cluster daemon
After=network-online.target docker.service
Wants=network-online.target

[Service]
EnvironmentFile=-/etc/trellis/daemon.env
ExecStart=/usr/local/bin/trellis daemon $TRELLIS_DAEMON_FLAGS
Restart=always
RestartSec=1
# Logins live here and survive a restart of the daemon, not of the host.
RuntimeDirectory=trellis
RuntimeDirectoryMode=0700
RuntimeDirectoryPreserve=yes
TimeoutStopSec=10
LimitNOFILE=65536
OOMScoreAdjust=-900

[Install]
WantedBy=multi-user.target
UNIT
  # Not part of the daemon's: nothing that happens to the daemon, its restart included, stops the guard. A slice of its own,
  # so that neither the daemon's nor the containers' load and limits are the guard's.
  cat >"$units/trellis-guard.slice" <<'UNIT'
[Unit]
Description=Trellis guard of leases
DefaultDependencies=no
Before=slices.target

[Slice]
CPUWeight=1000
UNIT
  cat >"$units/trellis-guard.service" <<'UNIT'
[Unit]
Description=Trellis guard of leases
After=local-fs.target network.target
StartLimitIntervalSec=0

[Service]
Slice=trellis-guard.slice
EnvironmentFile=-/etc/trellis/guard.env
ExecStart=/usr/local/bin/trellis guard --state /var/lib/trellis/lease --run /run/trellis/guard $TRELLIS_GUARD_FLAGS
Restart=always
RestartSec=50ms
KillMode=process
OOMScoreAdjust=-1000
Nice=-20
LimitNOFILE=65536
TimeoutStopSec=5
# What it holds is here, and is continued by the next one.
RuntimeDirectory=trellis/guard
RuntimeDirectoryMode=0700
RuntimeDirectoryPreserve=yes

[Install]
WantedBy=multi-user.target
UNIT
  cat >"$units/trellis-forwarding.service" <<'UNIT'
[Unit]
Description=Trellis service addresses, as they were before the boot
# Whoever sets up or flushes the packet filter goes first; containers come after.
After=local-fs.target network-pre.target nftables.service netfilter-persistent.service firewalld.service ufw.service
Before=docker.service trellis.service
ConditionPathExists=/var/lib/trellis/plugins/names/restore.sh

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh /var/lib/trellis/plugins/names/restore.sh

[Install]
WantedBy=multi-user.target
UNIT
}

write_openrc_script() {
  cat >/etc/init.d/trellis <<'UNIT'
#!/sbin/openrc-run
description="Trellis cluster daemon"
supervisor=supervise-daemon
command=/usr/local/bin/trellis
command_args="daemon ${TRELLIS_DAEMON_FLAGS-}"
respawn_delay=1
output_log=/var/log/trellis.log
error_log=/var/log/trellis.log

depend() {
  need net
  after firewall docker
}

start_pre() {
  [ ! -r /etc/trellis/daemon.env ] || . /etc/trellis/daemon.env
  [ ! -r /var/lib/trellis/plugins/names/restore.sh ] || sh /var/lib/trellis/plugins/names/restore.sh
}
UNIT
  chmod 755 /etc/init.d/trellis
}
