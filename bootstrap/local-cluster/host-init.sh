#!/bin/sh
# First process of a local host. Runs in fresh mount, network, process, name and IPC namespaces and gives the host a root
# of its own: the machine's root as lower layer, everything written goes to the host's upper layer.
# Environment: HOST_DIR (upper, work, root, docker, boot-id), HOST_NAME, REPO_DIR (must be visible inside).
set -e
# /proc is still the machine's: this is our process number as seen from outside.
read -r outer_pid _ < /proc/self/stat
root=$HOST_DIR/root
mount -t overlay overlay -o "lowerdir=/,upperdir=$HOST_DIR/upper,workdir=$HOST_DIR/work" "$root"
cd "$root"
mount -t proc proc proc
mount -t sysfs sysfs sys
mount --rbind /sys/fs/cgroup sys/fs/cgroup
mount --rbind /dev dev
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
# overlay2 of the engine cannot sit on an overlay: give it a plain directory.
mkdir -p var/lib/docker
mount --bind "$HOST_DIR/docker" var/lib/docker
if [ ! -e "$root$REPO_DIR/package.json" ]; then
  mkdir -p "$root$REPO_DIR"
  mount --bind "$REPO_DIR" "$root$REPO_DIR"
fi
if [ ! -e "$root$NODE_DIR/node" ]; then
  mkdir -p "$root$NODE_DIR"
  mount --bind "$NODE_DIR" "$root$NODE_DIR"
fi
# A disk that all hosts see, as a storage network would give them; only where the network was made with one.
shared=${HOST_DIR%/*}/shared
if [ -d "$shared" ]; then
  mkdir -p srv/shared
  mount --bind "$shared" srv/shared
fi
# All namespaces share the kernel's boot id; a host must see a new one after each boot.
cp "$HOST_DIR/boot-id" run/boot-id
mount --bind run/boot-id proc/sys/kernel/random/boot_id
mkdir -p run/old-root run/lock run/testbed
pivot_root . run/old-root
cd /
umount -l /run/old-root
hostname "$HOST_NAME"
ip link set lo up
echo "ready $outer_pid"
exec < /dev/null > /dev/null 2>&1
# The first process must reap orphans: the shell's wait collects every child.
while :; do
  sleep 86400 &
  wait $!
done
