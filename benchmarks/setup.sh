#!/usr/bin/env bash
# The peers of benchmarks/serving.py, each in a virtual environment of its own below DIR: kserve wants
# a newer starlette than mlserver's fastapi allows, so that one environment cannot hold both.
#
#     benchmarks/setup.sh DIR                      DIR/kserve and DIR/mlserver, some 500 MB each
#     benchmarks/serving.py --peers DIR
#
# Run again, it only installs what has changed. ONNX Runtime and Pillow are of the versions in
# requirements/dev.txt, and there is no torch.
set -euo pipefail

DIR=${1:?usage: benchmarks/setup.sh DIR}
PYTHON=${PYTHON:-python3.11}
HERE=$(cd "$(dirname "$0")" && pwd)

for peer in kserve mlserver; do
    locked=$HERE/peers/$peer.txt
    environment=$DIR/$peer
    if cmp -s "$locked" "$environment/installed.txt"; then
        echo "$peer: up to date in $environment"
        continue
    fi
    echo "$peer: installing $(grep -c == "$locked") packages into $environment"
    test -x "$environment/bin/python" || "$PYTHON" -m venv "$environment"
    "$environment/bin/python" -m pip install --quiet --disable-pip-version-check \
        --no-deps --require-hashes -r "$locked"
    "$environment/bin/python" -m pip check --disable-pip-version-check
    cp "$locked" "$environment/installed.txt"
    echo "$peer: $("$environment/bin/python" -c "from importlib.metadata import version as v
print(', '.join(f'{name} {v(name)}' for name in ('$peer', 'onnxruntime', 'pillow', 'grpcio')))")"
done
