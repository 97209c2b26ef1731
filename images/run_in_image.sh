#!/usr/bin/env bash
# run_in_image.sh IMAGE COMMAND...: as the image's user, root read-only, a fresh /tmp, no network.
# What a pod with our security context gives, without a cluster. Needs root and buildah.
set -euo pipefail
image=$1
shift
container=$(buildah from --pull-never "$image")
trap 'buildah umount "$container" >/dev/null; buildah rm "$container" >/dev/null' EXIT
root=$(buildah mount "$container")
user=$(buildah inspect --type image --format '{{.OCIv1.Config.User}}' "$image")
mapfile -t environment < <(
  buildah inspect --type image --format '{{range .OCIv1.Config.Env}}{{println .}}{{end}}' "$image" |
    grep .
)
# shellcheck disable=SC2016  # the inner shell expands
unshare --mount --net --pid --fork --kill-child -- bash -ec '
  root=$1 user=$2
  shift 2
  mount --make-rprivate /
  mount --bind "$root" "$root"
  mount -t proc proc "$root/proc"
  mount -t tmpfs tmpfs "$root/tmp"
  mount --rbind /dev "$root/dev"
  mount -o remount,bind,ro "$root"
  exec chroot --userspec="$user" "$root" /usr/bin/env -i --chdir=/tmp "$@"
' _ "$root" "$user" "${environment[@]}" "$@"
