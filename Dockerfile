# The suite in a container, by the same set-up and the same lock as on a machine: docker build -t vicreg .
FROM python:3.11-slim-bookworm

# hadolint ignore=DL3008
RUN apt-get update -qq \
    && apt-get install -y -qq --no-install-recommends make libgomp1 \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/vicreg
COPY . .
ENV PIP_NO_CACHE_DIR=1
RUN make setup PYTHON=python3.11

ENV PATH=/opt/vicreg/.venv/bin:$PATH
WORKDIR /work
CMD ["python", "/opt/vicreg/jobs/pretrain.py", "--help"]
