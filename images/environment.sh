#!/bin/sh
# environment.sh LOCK VARIANT: runs in the builder. Makes /opt/venv from the lock, and nothing else.
# torch comes first, from /wheels or from the index of CPU wheels: the registry's own asks for CUDA.
set -eu
lock=$1
variant=$2
export VIRTUAL_ENV=/opt/venv UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never UV_CACHE_DIR=/var/cache/uv
export SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
PATH=/opt/uv/bin:$PATH

python3 /build/refuse_cuda.py lock "$variant" "$lock"
uv venv -q --python "$(command -v python3)" /opt/venv
torch=$(grep '^torch==' "$lock" || true)
if [ -n "$torch" ] && [ "$variant" = cpu ]; then
  if ls /wheels/torch-*.whl >/dev/null 2>&1; then
    uv pip install -q --no-deps --no-index --find-links /wheels "$torch"
  else
    uv pip install -q --no-deps --index-url "$TORCH_CPU_INDEX" "$torch"
  fi
fi
uv pip install -q --no-deps -r "$lock"
/opt/venv/bin/python /build/refuse_cuda.py installed "$variant" /opt/venv

# Our own code lies in a folder (and layer) of its own: a change of it leaves the large layer as it is.
echo /opt/headrace >"$(echo /opt/venv/lib/python3.*/site-packages)/headrace.pth"
# The root is read-only when it runs: bytecode is made here, valid whatever the files' times are.
/opt/venv/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/venv/lib >/dev/null || true
