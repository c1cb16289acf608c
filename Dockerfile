# The image of nsbroker for hosts where it runs in a container.  examples/kubernetes/daemonset.yaml shows how to start it.
FROM docker.io/library/debian:13-slim AS build
ARG DEBIAN_FRONTEND=noninteractive
RUN apt-get update && apt-get install --yes --no-install-recommends \
    gcc libc6-dev libsystemd-dev pkg-config python3-dev python3-venv
COPY LICENSE README.md pyproject.toml /src/
COPY nsbroker /src/nsbroker
COPY systemd /src/systemd
RUN python3 -m venv /opt/nsbroker && /opt/nsbroker/bin/pip install --no-cache-dir '/src[daemon,dns]' \
    && /opt/nsbroker/bin/pip uninstall --yes pip

FROM docker.io/library/debian:13-slim
ARG DEBIAN_FRONTEND=noninteractive
RUN apt-get update && apt-get install --yes --no-install-recommends libsystemd0 python3-minimal libpython3-stdlib \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/nsbroker /opt/nsbroker
ENTRYPOINT ["/opt/nsbroker/bin/nsbroker"]
CMD ["serve"]
