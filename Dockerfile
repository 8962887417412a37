# What is inside, why, and how to run it: docs/containers.md. Built by `make image`, `make image VARIANT=cpu`.
ARG BASE=python:3.11.14-slim-bookworm

FROM ${BASE} AS dependencies
ARG VARIANT=cuda
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG PIP_FIND_LINKS=
ENV PIP_FIND_LINKS=${PIP_FIND_LINKS} PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
COPY requirements/${VARIANT}.lock /tmp/requirements.lock
# The environment has no pip of its own.
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv --without-pip /opt/bids-brainage \
    && if [ "${VARIANT}" = cpu ] && [ -n "${TORCH_INDEX}" ]; then export PIP_EXTRA_INDEX_URL="${TORCH_INDEX}"; fi \
    && pip --python /opt/bids-brainage/bin/python install --require-hashes -r /tmp/requirements.lock

FROM ${BASE} AS wheel
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
COPY requirements/build.lock /tmp/requirements.lock
RUN --mount=type=cache,target=/root/.cache/pip pip install --require-hashes -r /tmp/requirements.lock
WORKDIR /src
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY bids_brainage bids_brainage
RUN pip wheel --no-deps --no-build-isolation --no-index --wheel-dir /dist .

FROM dependencies
ARG IMAGE=bids-brainage:local
# container.json is how the app knows what to write into GeneratedBy of its dataset_description.json.
RUN --mount=type=bind,from=wheel,source=/dist,target=/dist \
    pip --python /opt/bids-brainage/bin/python install --no-cache-dir --no-deps --no-index /dist/*.whl \
    && printf '{"Type": "docker", "Tag": "%s"}\n' "${IMAGE}" \
       > /opt/bids-brainage/lib/python3.11/site-packages/bids_brainage/data/container.json \
    && mkdir --mode 1777 /scratch
# Any user may run it, on a read-only root: all that libraries want to keep goes to /tmp, the work folder to /scratch.
ENV PATH=/opt/bids-brainage/bin:${PATH} \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONNOUSERSITE=1 \
    NO_ET=1 \
    TEMPLATEFLOW_AUTOUPDATE=off \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="bids-brainage" \
      org.opencontainers.image.description="A BIDS App that turns T1-weighted MRI into brain age" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.authors="The bids-brainage developers" \
      org.opencontainers.image.licenses="Apache-2.0"
WORKDIR /scratch
ENTRYPOINT ["bids-brainage"]
