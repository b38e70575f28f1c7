# The service in an image: no torch, no compiler, no pip, a numeric user without rights. docs/containers.md
#
#   docker build -t alexnet-service:cpu .                               for CPUs
#   docker build -t alexnet-service:gpu --build-arg RUNTIME=gpu .       CUDA 13 runtime (also runs on a CPU): 2.9 GB
# and its model:
#   docker run -v /path/my.onnx:/model/alexnet.onnx:ro ...              mounted over the one inside
#   docker build --build-arg MODEL=my.onnx ...                          one's own, inside the context
#   docker build --target exported ...                                  exported from the published weights

# Any image with Python 3.11 or later as `python3`, with its venv module. A tag moves; to have the same
# base for good: --build-arg BASE=python:3.12-slim-bookworm@sha256:...
ARG BASE=python:3.12-slim-bookworm

# The tools of the build, which stay behind.
FROM ${BASE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
COPY requirements/build.txt requirements/
# Here and below wheels only, each with its SHA-256: no code of a package runs in the build.
RUN python3 -m venv /opt/build \
    && /opt/build/bin/python -m pip install --require-hashes --only-binary :all: -r requirements/build.txt

# The image's environment without the project, so that this layer lasts until its lock changes.
FROM build AS wheels
ARG RUNTIME=cpu
COPY requirements/${RUNTIME}.txt requirements/
RUN python3 -m venv --without-pip /opt/venv \
    && /opt/build/bin/python -m pip --python /opt/venv/bin/python \
       install --require-hashes --only-binary :all: -r requirements/${RUNTIME}.txt

FROM build AS project
COPY pyproject.toml README.md LICENSE ./
COPY command_help command_help
COPY service service
COPY model_export model_export
COPY model_training model_training
COPY client client
RUN /opt/build/bin/python -m pip wheel --no-deps --no-index --no-build-isolation -w /dist .

# A prefix of its own, to be laid over the environment as a thin layer. The image holds the model once,
# in /model; the package's own place for it points there.
FROM wheels AS application
COPY --from=project /dist /dist
RUN /opt/build/bin/python -m pip --python /opt/venv/bin/python \
       install --no-deps --no-index --prefix /opt/application /dist/*.whl \
    && for bundled in /opt/application/lib/python3.*/site-packages/service/bundled/alexnet.onnx; do \
           ln -sf /model/alexnet.onnx "$bundled"; \
       done

# The two stages of `--target exported`, which no other build runs.
# torch's CPU build is on an index of its own, with other hashes than PyPI's: as in scripts/install, the
# version and TLS to that index are what counts.
FROM build AS exporter
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY constraints.txt ./
COPY requirements/export.txt requirements/
RUN python3 -m venv --without-pip /opt/export \
    && /opt/build/bin/python -m pip --python /opt/export/bin/python \
       install --require-hashes --only-binary :all: -r requirements/export.txt \
    && /opt/build/bin/python -m pip --python /opt/export/bin/python \
       install --no-deps --only-binary :all: -c constraints.txt --retries 0 --index-url "$TORCH_INDEX" torch

# In the context, as the one who builds sees it: WEIGHTS and LABELS are paths in there.
FROM exporter AS export
ARG VARIANT=owt
ARG PRECISION=fp32
ARG WEIGHTS=
ARG LABELS=
COPY --from=project /dist /dist
RUN /opt/build/bin/python -m pip --python /opt/export/bin/python install --no-deps --no-index /dist/*.whl
# A download that was cut off goes on from the cache when the build is run again.
RUN --mount=type=bind,target=/context --mount=type=cache,target=/root/.cache/alexnet-service \
    mkdir /model && cd /context && /opt/export/bin/alexnet-export -o /model/alexnet.onnx \
        --variant "$VARIANT" --precision "$PRECISION" ${WEIGHTS:+--weights "$WEIGHTS"} ${LABELS:+--labels "$LABELS"}

FROM ${BASE} AS runtime
# pip comes with some bases, and nothing here needs it.
RUN ! python3 -m pip --version 2>/dev/null || python3 -m pip uninstall --yes --root-user-action ignore pip
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    ORT_DISABLE_TELEMETRY=1 \
    ALEXNET_HOST=0.0.0.0 \
    ALEXNET_PORT=8000 \
    ALEXNET_MODEL=/model/alexnet.onnx \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=wheels /opt/venv /opt/venv
COPY --from=application /opt/application /opt/venv
COPY --chmod=0444 docker/healthcheck.py /opt/healthcheck.py
USER 10001:10001
WORKDIR /tmp
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "/opt/healthcheck.py"]
ENTRYPOINT ["alexnet"]
CMD ["serve"]
# Who builds for others says where the source is, and which commit this was.
ARG SOURCE=
ARG REVISION=
LABEL org.opencontainers.image.title="alexnet-service" \
      org.opencontainers.image.description="JPEG in, labels out: AlexNet over HTTP, averaged over ten crops" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.revision="${REVISION}"

FROM runtime AS exported
COPY --from=export --chmod=0444 /model/alexnet.onnx /model/alexnet.onnx

FROM runtime
ARG MODEL=service/bundled/alexnet.onnx
COPY --chmod=0444 ${MODEL} /model/alexnet.onnx
