# The server in a container. How to run it: docs/deployment.md.
#
#     docker build -t fast-inference .                                # for CPUs
#     docker build -t fast-inference:cuda --build-arg VARIANT=cuda .  # for NVIDIA GPUs
#     docker build -t fast-inference:ray --build-arg EXTRA=ray .      # with an extra of pyproject.toml, for either
#
# scripts/check_dockerfile_steps does what this file does, without Docker, in a folder of its own.

ARG PYTHON_VERSION=3.12
ARG VARIANT=cpu

FROM python:${PYTHON_VERSION}-slim AS build
ARG VARIANT
ARG EXTRA=
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
SHELL ["/bin/sh", "-euc"]
RUN python -m venv /opt/fast-inference
# torch first and by itself: its CPU build is a tenth as large, and on an index of its own.
RUN if [ "$VARIANT" = cpu ]; then export PIP_INDEX_URL=https://download.pytorch.org/whl/cpu; fi; \
    /opt/fast-inference/bin/pip install torch==2.13.0
# The dependencies before the code: they change less often, and this layer is the slow one.
WORKDIR /src
COPY pyproject.toml ./
RUN python -c "import os, tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; e = os.environ.get('EXTRA'); print(*p['dependencies'], *(p['optional-dependencies'][e] if e else ()), sep='\n')" \
        >/tmp/requirements.txt; \
    /opt/fast-inference/bin/pip install -r /tmp/requirements.txt
COPY README.md LICENSE ./
COPY frontend ./frontend
COPY engine_core ./engine_core
COPY ipc ./ipc
COPY fast_inference ./fast_inference
RUN /opt/fast-inference/bin/pip install --no-deps .

FROM python:${PYTHON_VERSION}-slim AS runtime-cpu
# The compiler makes the CPU kernels for the very CPU that they run on, and the stubs through which GPU kernels start.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
# A user of our own. What it may write to: models and kernels, files and batches of the API, sockets.
RUN groupadd --gid 10001 fast-inference && \
    useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/cache/fast-inference --shell /usr/sbin/nologin \
        fast-inference && \
    install -d -o 10001 -g 10001 -m 700 /var/cache/fast-inference /var/lib/fast-inference /run/fast-inference /models
COPY --from=build /opt/fast-inference /opt/fast-inference
COPY scripts/docker-entrypoint /usr/local/bin/
ENV PATH=/opt/fast-inference/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    XDG_CACHE_HOME=/var/cache \
    HF_HOME=/var/cache/fast-inference/huggingface \
    FAST_INFERENCE_HOST=0.0.0.0 \
    FAST_INFERENCE_PORT=8000 \
    FAST_INFERENCE_RUN_DIR=/run/fast-inference/server \
    FAST_INFERENCE_STATE_DIR=/var/lib/fast-inference/state
USER 10001:10001
WORKDIR /models
VOLUME ["/models", "/var/cache/fast-inference", "/var/lib/fast-inference"]
EXPOSE 8000
# A first start downloads a model: what fails before it has ever served does not count for half an hour. Proxies that
# are set for downloads are none of its business.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30m --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.build_opener(r.ProxyHandler({})).open('http://127.0.0.1:' + os.environ['FAST_INFERENCE_PORT'] + '/health', timeout=4)"]
# SIGTERM drains for 30 s (--drain-timeout); give `docker stop -t` more than that.
STOPSIGNAL SIGTERM
ENTRYPOINT ["docker-entrypoint"]
CMD ["serve"]

FROM runtime-cpu AS runtime-cuda
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility

# hadolint ignore=DL3006
FROM runtime-${VARIANT}
