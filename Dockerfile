# The image of all commands. To build it, Docker needs BuildKit, which it has from 20.10 on (in 20.10 with DOCKER_BUILDKIT=1),
# and no other images than the two base images.
#   docker build --build-arg VERSION=0.1.0 --tag penr-webhooks .
#   docker build --target debug --output . .     # on the same machine: the same build's debug information, penr-webhooks.debug

FROM rust:1-bookworm AS build
WORKDIR /src
COPY . .
# The cache mounts keep compiled dependencies, so a change of our own files does not compile them again.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin penr-webhooks \
    && cp target/release/penr-webhooks /usr/local/bin/
# Moves debug information (names and lines) to a file of its own, which backtraces and gdb find beside the binary.
RUN cd /usr/local/bin \
    && objcopy --only-keep-debug penr-webhooks penr-webhooks.debug \
    && objcopy --strip-all --add-gnu-debuglink=penr-webhooks.debug penr-webhooks

FROM scratch AS debug
COPY --from=build /usr/local/bin/penr-webhooks.debug /

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --no-create-home penr
COPY config/development.toml config/production.toml /etc/penr-webhooks/
COPY --from=build /usr/local/bin/penr-webhooks /usr/local/bin/
# The default is loopback, which nobody outside the container can reach.
ENV PENR_WEBHOOKS__API__LISTEN=[::]:8080 \
    PENR_WEBHOOKS__OPS__LISTEN=[::]:9090
EXPOSE 8080 9090
USER 10001
ENTRYPOINT ["penr-webhooks"]
CMD ["run"]
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["penr-webhooks", "ready"]
# The address of the sources and the version, for the labels.
ARG SOURCE=https://penr.ai
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="penr-webhooks" \
      org.opencontainers.image.description="Delivers penr.ai's webhooks: RabbitMQ events in, signed POSTs out, at least once" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="$SOURCE" \
      org.opencontainers.image.version="$VERSION"
