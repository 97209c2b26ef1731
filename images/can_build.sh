#!/usr/bin/env bash
# can_build.sh: whether this machine lets buildah run a container at all; says why not. Needs root on Debian.
set -uo pipefail
[ "$(id -u)" = 0 ] || { echo "no images: expected root, found uid $(id -u)"; exit 1; }
if ! command -v buildah >/dev/null; then
  apt-get update -q >/dev/null 2>&1
  DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends buildah >/dev/null 2>&1 ||
    { echo "no images: apt-get could not install buildah"; exit 1; }
fi
work=$(mktemp -d)
probe=headrace-probe-$$
trap 'rm -rf "$work"; buildah rm "$probe" >/dev/null 2>&1' EXIT
cp /bin/true "$work/true"
ldd /bin/true | grep -o '/[^ ]*' | xargs -I{} cp --parents -L {} "$work"
said=$({ buildah from --name "$probe" scratch && buildah add -q "$probe" "$work" / &&
  buildah run --isolation chroot "$probe" /true; } 2>&1) || { echo "no images: buildah cannot run here: ${said: -300}"; exit 1; }
