# One image for masters, workers and the command line.
#
#   docker build -t orca .
#   docker run orca orca-master --help
#
# The base image must have Python 3.11 or later with pip and venv. Base, package index and pip's options
# are arguments, so that the image can be built where the usual ones cannot be reached.
ARG BASE=python:3.12-slim
FROM ${BASE}

ARG PYTHON=python3
ARG PIP_INDEX_URL
ARG PIP_OPTIONS=""

COPY pyproject.toml README.md LICENSE /src/
COPY proto /src/proto
COPY common /src/common
COPY master /src/master
COPY worker /src/worker
COPY cli /src/cli
RUN ${PYTHON} -m venv /opt/orca \
 && /opt/orca/bin/pip install --no-cache-dir --disable-pip-version-check ${PIP_OPTIONS} /src \
 && rm -rf /src

ENV PATH=/opt/orca/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
VOLUME /var/lib/orca
EXPOSE 6880 6881 6882
STOPSIGNAL SIGTERM
CMD ["orca-master"]
