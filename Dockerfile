# syntax=docker/dockerfile:1

# The image of AI Task Processor: `make image` builds and tries it, deploy/README.md says how it is used.

ARG PYTHON=3.13

# --- Build: everything is pinned and checked by its hash; nothing of this stage but /opt/ai-task-processor is kept -----

FROM python:${PYTHON}-slim-bookworm AS build

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore

WORKDIR /src

COPY requirements-build.lock ./
RUN python -m venv /opt/build \
 && /opt/build/bin/pip install --require-hashes --only-binary :all: --no-deps --requirement requirements-build.lock

COPY requirements.lock ./
RUN python -m venv --without-pip /opt/ai-task-processor \
 && /opt/build/bin/pip --python /opt/ai-task-processor/bin/python install \
      --require-hashes --only-binary :all: --no-deps --requirement requirements.lock

COPY pyproject.toml README.md LICENSE ./
COPY ai_task_processor ./ai_task_processor
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --no-index --wheel-dir /wheels . \
 && /opt/build/bin/pip --python /opt/ai-task-processor/bin/python install --no-deps --no-index /wheels/*.whl

# --- What runs --------------------------------------------------------------------------------------------------------

FROM python:${PYTHON}-slim-bookworm

ARG VERSION=0.1.0
ARG REVISION=unknown

LABEL org.opencontainers.image.title="AI Task Processor" \
      org.opencontainers.image.description="Does the AI tasks which an application collects: nothing lost, nothing paid for twice." \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

RUN groupadd --gid 10001 processor \
 && useradd --uid 10001 --gid processor --home-dir /app/data --no-create-home --shell /usr/sbin/nologin processor \
 && install --directory --owner=processor --group=processor --mode=0750 /app/data

COPY --from=build /opt/ai-task-processor /opt/ai-task-processor

# The state is at its usual place, data/state.db under /app. STATE_URL is left to the user: it would be in the way of
# STATE_URL_FILE. Whatever makes temporary files makes them in /app/data, the only place that can be written.
ENV PATH=/opt/ai-task-processor/bin:$PATH \
    HOME=/app/data \
    TMPDIR=/app/data \
    METRICS_HOST=0.0.0.0 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1

WORKDIR /app
USER 10001:10001
VOLUME /app/data
EXPOSE 8001
STOPSIGNAL SIGTERM

HEALTHCHECK --interval=15s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-m", "ai_task_processor.health"]

ENTRYPOINT ["ai-task-processor"]
CMD ["run"]
