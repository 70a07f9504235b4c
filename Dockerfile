# One image for worker, monitor and every other command.
FROM python:3.11.14-slim-bookworm

WORKDIR /opt/streamgauge

# First what changes rarely: every dependency, at the locked version and hash.
COPY requirements.lock ./
RUN pip install --no-cache-dir --require-hashes -r requirements.lock

COPY pyproject.toml README.md ./
COPY app app
COPY models models
COPY schemas schemas
COPY streamgauge streamgauge
RUN pip install --no-cache-dir --no-deps . \
    && useradd --create-home --uid 1000 streamgauge \
    && install -d -o streamgauge -g streamgauge /var/lib/streamgauge

USER streamgauge
WORKDIR /var/lib/streamgauge
ENTRYPOINT ["streamgauge"]
