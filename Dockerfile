# docker build --target service  -t unfreeze-service:0.1.0 .                 CPU, no torch
# docker build --target service  -t unfreeze-service:0.1.0-gpu --build-arg VARIANT=gpu .
# docker build --target training -t unfreeze-training:0.1.0 .                also trains
# docker build --target training -t unfreeze-training:0.1.0-gpu --build-arg VARIANT=gpu .
#
# docker run --rm --init --stop-timeout 40 -p 8001:8001 -p 8002:8002 -v "$PWD/models:/models:ro" \
#   --name unfreeze unfreeze-service:0.1.0
# docker exec unfreeze unfreeze models                                        admin commands

ARG PYTHON_IMAGE=python:3.11-slim

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
RUN python -m venv /opt/unfreeze
ENV PATH=/opt/unfreeze/bin:$PATH

FROM build AS wheel
COPY requirements/build.txt requirements/
RUN pip install --require-hashes -r requirements/build.txt
COPY pyproject.toml README.md LICENSE ./
COPY registry registry
COPY service service
COPY training training
COPY unfreeze unfreeze
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /wheels .

FROM build AS service-packages
ARG VARIANT=cpu
COPY requirements/${VARIANT}.txt requirements.txt
RUN pip install --require-hashes -r requirements.txt
COPY --from=wheel /wheels /wheels
RUN pip install --no-deps --no-index /wheels/*.whl && pip uninstall --yes setuptools pip

FROM build AS training-packages
ARG VARIANT=cpu
COPY requirements/train-${VARIANT}.txt requirements.txt
RUN pip install --require-hashes -r requirements.txt
COPY --from=wheel /wheels /wheels
RUN pip install --no-deps --no-index /wheels/*.whl && pip uninstall --yes pip

FROM ${PYTHON_IMAGE} AS runtime
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="unfreeze" \
      org.opencontainers.image.description="Fine-tunes image classifiers, serves them over gRPC and retrains them on request." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# Libraries look up the user's name, so it needs one. Its home, /tmp, is the only writable place when
# the root file system is read-only.
RUN groupadd --gid 65532 unfreeze && \
    useradd --uid 65532 --gid 65532 --no-create-home --home-dir /tmp unfreeze
ENV PATH=/opt/unfreeze/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 65532:65532
WORKDIR /tmp
EXPOSE 8001 8002
STOPSIGNAL SIGTERM
ENTRYPOINT ["unfreeze"]
CMD ["serve", "--registry", "/models", "--host", "0.0.0.0"]

FROM runtime AS training
COPY --from=training-packages /opt/unfreeze /opt/unfreeze

FROM runtime AS service
COPY --from=service-packages /opt/unfreeze /opt/unfreeze
