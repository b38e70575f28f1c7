# The service in an image: no torch, no compiler, no pip, a numeric user without rights.
#
#   docker build -t alexnet-service .                                   CUDA 13 runtime (also runs on a CPU)
#   docker build -t alexnet-service:cpu --build-arg RUNTIME=cpu .       the small one
#   docker build --build-arg MODEL=my.onnx ...                          with a model of one's own (inside the context)
#   docker run -v /path/my.onnx:/model/alexnet.onnx:ro ...              or mounted over the one inside

# Any image with Python 3.11 or later as `python3`, with its venv module. A tag moves; to have the same
# base for good: --build-arg BASE=python:3.12-slim-bookworm@sha256:...
ARG BASE=python:3.12-slim-bookworm

FROM ${BASE} AS wheels
ARG RUNTIME=gpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
# Two environments: one with the build tools, which stays behind, and one that becomes the image's.
RUN python3 -m venv /opt/build && python3 -m venv --without-pip /opt/venv
# The dependencies without the project, so that this layer lasts until their locks change. Wheels only, each
# with its SHA-256: no code of a package runs in the build.
COPY requirements/build.txt requirements/${RUNTIME}.txt requirements/
RUN /opt/build/bin/python -m pip install --require-hashes --only-binary :all: -r requirements/build.txt \
    && /opt/build/bin/python -m pip --python /opt/venv/bin/python \
       install --require-hashes --only-binary :all: -r requirements/${RUNTIME}.txt

FROM wheels AS application
COPY pyproject.toml README.md LICENSE ./
COPY service service
COPY model_export model_export
# A prefix of its own, to be laid over the environment as a thin layer. The image holds the model once,
# in /model; the package's own place for it points there.
RUN /opt/build/bin/python -m pip wheel --no-deps --no-index --no-build-isolation -w /dist . \
    && /opt/build/bin/python -m pip --python /opt/venv/bin/python \
       install --no-deps --no-index --prefix /opt/application /dist/*.whl \
    && for bundled in /opt/application/lib/python3.*/site-packages/service/bundled/alexnet.onnx; do \
           ln -sf /model/alexnet.onnx "$bundled"; \
       done

FROM ${BASE}
ARG MODEL=service/bundled/alexnet.onnx
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
COPY --chmod=0444 ${MODEL} /model/alexnet.onnx
COPY --chmod=0444 docker/healthcheck.py /opt/healthcheck.py
USER 10001:10001
WORKDIR /tmp
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "/opt/healthcheck.py"]
ENTRYPOINT ["alexnet"]
CMD ["serve"]
