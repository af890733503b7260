#!/usr/bin/env bash
# The peers of benchmarks/serving.py and of benchmarks/training.py, each in a virtual environment of
# its own below DIR: kserve wants a newer starlette than mlserver's fastapi allows, so that one
# environment cannot hold both.
#
#     benchmarks/setup.sh DIR                      DIR/kserve and DIR/mlserver, some 500 MB each
#     benchmarks/serving.py --peers DIR
#
#     benchmarks/setup.sh DIR fastai               DIR/fastai, with torch some 6 GB
#     benchmarks/training.py fastai --peers DIR    some two hours; with --seeds 1, 40 minutes
#
#     benchmarks/setup.sh DIR analyzer             DIR/analyzer, Triton's performance analyzer, 160 MB
#     benchmarks/analyzer.py --peers DIR
#
# Run again, it only installs what has changed. ONNX Runtime, Pillow, grpcio, torch and timm are of the
# versions in requirements/dev.txt; the peers of serving have no torch.
set -euo pipefail

DIR=${1:?usage: benchmarks/setup.sh DIR [PEER…]}
PYTHON=${PYTHON:-python3.11}
HERE=$(cd "$(dirname "$0")" && pwd)
shift
test $# -gt 0 || set -- kserve mlserver

for peer in "$@"; do
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
    echo "$peer: $("$environment/bin/python" -c "from importlib.metadata import distributions
names = ('$peer', 'tritonclient', 'onnxruntime', 'pillow', 'grpcio', 'torch')
print(*sorted(f'{d.name} {d.version}' for d in distributions() if d.name.lower() in names), sep=', ')")"
done
