FROM python:3.11-slim

# Any uid may run this image: one without an entry in passwd has no home of its own.
ENV HOME=/tmp \
    PYTHONUNBUFFERED=1

# pg_dump and pg_restore, for backups.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends postgresql-client \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /app

COPY requirements.txt ./
RUN pip install --no-cache-dir --require-hashes -r requirements.txt

COPY pyproject.toml README.md LICENSE ./
COPY src ./src
COPY server ./server
COPY kafka_worker/kafka_worker.py ./kafka_worker/kafka_worker.py
COPY frontend ./frontend

# Open to every uid, since compose chooses it: a new named volume takes over the
# mode of the folder that it covers.
RUN pip install --no-cache-dir --no-deps --no-build-isolation -e . \
    && mkdir data models \
    && chmod 0777 data models

USER 1000:1000
