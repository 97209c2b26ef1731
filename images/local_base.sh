#!/usr/bin/env bash
# local_base.sh IMAGE: a base image of Debian and its Python, for machines that reach no image registry.
set -euo pipefail
image=$1
mirror=${DEBIAN_MIRROR:-}  # without: mmdebstrap's own default
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# usr-is-merged: else apt chooses usrmerge, and with it all of Perl.
mmdebstrap --mode=root --variant=minbase --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr \
  --include=usr-is-merged,ca-certificates,python3,python3-venv \
  bookworm "$work/tree" ${mirror:+"$mirror"} >"$work/log" 2>&1 || { tail -20 "$work/log" >&2; exit 1; }
rm -rf "$work/tree"/var/cache/apt/*.bin "$work/tree"/var/cache/apt/archives/*.deb \
  "$work/tree"/var/lib/apt/lists/* "$work/tree"/var/log/* "$work/tree"/usr/share/{doc,man,locale}/*
find "$work/tree/usr/lib/python3.11" -name __pycache__ -prune -exec rm -rf {} +
chroot "$work/tree" python3 -m compileall -q --invalidation-mode unchecked-hash /usr/lib/python3.11

container=$(buildah from scratch)
buildah add -q "$container" "$work/tree" / >/dev/null
buildah config --cmd python3 --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
  "$container"
buildah commit -q --rm "$container" "$image" >/dev/null
