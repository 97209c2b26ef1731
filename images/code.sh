#!/bin/sh
# code.sh: runs in the builder. Puts our own wheel into /opt/headrace, which /opt/venv looks into.
set -eu
/opt/uv/bin/uv pip install -q --python /opt/venv/bin/python --no-deps --no-index \
  --target /opt/headrace /build/headrace-*.whl
/opt/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/headrace
