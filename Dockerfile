# syntax=docker/dockerfile:1
# Two images from one recipe:
#   docker build --target gateway -t hearken/gateway .    gateway and controller: no torch
#   docker build --target learner -t hearken/learner .    the learner, with torch for CUDA
# The engine is vLLM's own image, unchanged.

ARG PYTHON=3.11-slim-bookworm

# What changes rarely comes first: dependencies are installed before the source is copied.
FROM python:${PYTHON} AS base-build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
WORKDIR /src
COPY pyproject.toml requirements.lock ./
COPY scripts/image_requirements.py scripts/
RUN python scripts/image_requirements.py s3 otel > base.txt \
    && pip install -c requirements.lock -r base.txt

FROM base-build AS gateway-build
COPY README.md LICENSE ./
COPY feedback feedback
COPY deploy deploy
COPY learner learner
COPY serve serve
COPY hearken hearken
RUN pip install --no-deps .

# torch has a layer of its own: gigabytes that change once a year.
FROM base-build AS learner-build
RUN python scripts/image_requirements.py learner --only torch > torch.txt \
    && pip install -r torch.txt
RUN python scripts/image_requirements.py learner quant > learner.txt \
    && pip install -c requirements.lock -r learner.txt
COPY README.md LICENSE ./
COPY feedback feedback
COPY deploy deploy
COPY learner learner
COPY serve serve
COPY hearken hearken
RUN pip install --no-deps .

# Both images: a numeric user that owns nothing but /data, so that the root filesystem can be read-only.
FROM python:${PYTHON} AS runtime
RUN groupadd --gid 10001 hearken \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin hearken \
    && install -d -o 10001 -g 10001 -m 0750 /data
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="hearken" \
      org.opencontainers.image.description="An OpenAI-compatible chat service that learns from the people who use it" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
WORKDIR /data
VOLUME ["/data"]
STOPSIGNAL SIGTERM
# Any 200 from HEALTH_URL is health. A controller from the gateway's image sets it to its metrics.
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=4 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(os.environ['HEALTH_URL'], timeout=4)"]
ENTRYPOINT ["hearken"]

FROM runtime AS learner
COPY --from=learner-build /opt/venv /opt/venv
ENV HEALTH_URL=http://127.0.0.1:9100/metrics \
    HF_HOME=/data/huggingface
EXPOSE 9100
USER 10001:10001
CMD ["learner", "--help"]

# Last, so that it is what a build without --target makes.
FROM runtime AS gateway
COPY --from=gateway-build /opt/venv /opt/venv
ENV HEALTH_URL=http://127.0.0.1:8000/livez
EXPOSE 8000 9100
USER 10001:10001
CMD ["gateway", "--data", "/data", "--host", "0.0.0.0", "--port", "8000", "--engine", "http://engine:8000"]
