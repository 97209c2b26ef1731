#!/usr/bin/env bash
# build.sh [IMAGE...]: build our images with buildah; what `make images` calls. Needs root on Debian.
#
#   BASE, BASE_DIGEST  the image to build on; without BASE one made here by mmdebstrap
#   WHEELS             folder with torch's CPU wheel; without it, where pip looks, else PyTorch's index
#   VARIANT=cuda       torch with the registry's CUDA wheels, as torch-cuda
#   PREFIX             localhost/headrace
#   AT_ONCE            builds side by side: as many as there are cores
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
prefix=${PREFIX:-localhost/headrace}
variant=${VARIANT:-cpu}
at_once=${AT_ONCE:-$(nproc)}
local_base=localhost/headrace/base:bookworm-1
images=("$@")
[ ${#images[@]} -gt 0 ] || images=(tensorflow torch rollout data airflow)  # what takes longest first

tools=()
for tool in buildah mmdebstrap; do command -v "$tool" >/dev/null || tools+=("$tool"); done
if [ ${#tools[@]} -gt 0 ]; then
  apt-get update -q >/dev/null
  DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${tools[@]}" >/dev/null
fi

if [ -z "${BASE:-}" ]; then
  BASE=$local_base BASE_DIGEST=
  buildah inspect --type image "$BASE" >/dev/null 2>&1 || bash images/local_base.sh "$BASE"
fi

rm -f dist/headrace-*.whl
"$python" -m hatchling build -t wheel >/dev/null

empty=$(mktemp -d)
tidy_up() {  # the first build that fails ends the others
  for one in $(jobs -pr); do kill -- "-$one" 2>/dev/null || true; done
  rm -rf "$empty"
}
trap tidy_up EXIT
wheels=${WHEELS:-}
for folder in ${PIP_FIND_LINKS:-} $("$python" -m pip config get global.find-links 2>/dev/null || true); do
  if [ -z "$wheels" ] && compgen -G "$folder/torch-*.whl" >/dev/null; then wheels=$folder; fi
done

options=(--isolation chroot --network host --layers --build-arg "BASE=$BASE"
  --build-arg "BASE_DIGEST=${BASE_DIGEST:-}" --build-context "wheels=${wheels:-$empty}")
authorities=${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}
if [ -f "$authorities" ]; then  # the host's, where a proxy of its own signs what the registry sends
  options+=(--volume "$authorities:/etc/ssl/certs/ca-certificates.crt:ro")
fi

build() {
  local image=$1 name=$1 extra=() tag bytes seconds=$SECONDS
  if [ "$variant" != cpu ]; then
    name=$image-$variant extra=(--build-arg "VARIANT=$variant")
  fi
  tag=$("$python" -m tasks.contracts.image_tags "$image")
  buildah build -q "${options[@]}" "${extra[@]}" -f "images/$image/Dockerfile" \
    -t "$prefix/$name:$tag" . >/dev/null
  bytes=$(buildah images --json --filter "reference=$prefix/$name:$tag" |
    "$python" -c 'import json, sys; print(json.load(sys.stdin)[0]["size"])')
  printf '%-40s %10s %5d s\n' "$prefix/$name:$tag" "$bytes" $((SECONDS - seconds))
}

set -m  # a process group for each build, so that its end reaches all of it
builds=()
for image in "${images[@]}"; do
  if [ "$variant" != cpu ] && [ "$image" != torch ]; then continue; fi
  while [ "$(jobs -pr | wc -l)" -ge "$at_once" ]; do wait -n; done
  build "$image" &
  builds+=($!)
done
for one in "${builds[@]}"; do wait "$one"; done
