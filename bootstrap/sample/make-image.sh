#!/bin/sh
# Makes the sample image of the README's tour in the local engine, from busybox alone: no registry, no download.
#
#   make-image.sh NAME[:TAG] [TEXT]      the page says TEXT
set -eu

name=${1:?usage: make-image.sh NAME[:TAG] [TEXT]}
text=${2:-Hello from Trellis}

busybox=$(command -v busybox) || {
  echo 'make-image.sh: busybox is missing; install it with: apt-get install busybox-static' >&2
  exit 1
}
rootfs=$(mktemp -d)
trap 'rm -rf "$rootfs"' EXIT

mkdir -p "$rootfs/bin" "$rootfs/www" "$rootfs/tmp" "$rootfs/etc"
cp "$busybox" "$rootfs/bin/busybox"
for applet in sh httpd cat echo hostname ls ps sleep wget env kill nslookup; do
  ln -s busybox "$rootfs/bin/$applet"
done
if ! chroot "$rootfs" /bin/busybox true 2>/dev/null; then
  echo 'make-image.sh: this busybox needs shared libraries; install busybox-static' >&2
  exit 1
fi
printf '%s\n' "$text" >"$rootfs/www/index.html"
# Fixed times and owners: the same text gives the same layer.
tar -C "$rootfs" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -c . |
  docker import --change 'CMD ["httpd", "-f", "-p", "80", "-h", "/www"]' - "$name"
