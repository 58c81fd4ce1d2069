# The image of all commands. It takes BuildKit, which is a part of Docker from 20.10 on (there by DOCKER_BUILDKIT=1), and
# needs no image but the two base images.
#   docker build --build-arg VERSION=0.1.0 --tag penr-webhooks .
#   docker build --target debug --output . .     # on the same machine: the same build's debug information, penr-webhooks.debug

FROM rust:1-bookworm AS build
WORKDIR /src
COPY . .
# Dependencies stay compiled in the cache mounts, whatever changes in our own files.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin penr-webhooks \
    && cp target/release/penr-webhooks /usr/local/bin/
# Names and lines go into a file of their own, which backtraces and gdb find beside the binary.
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
# Others reach a container by its own address, so listening on loopback, the default, would be no use.
ENV PENR_WEBHOOKS__API__LISTEN=[::]:8080 \
    PENR_WEBHOOKS__OPS__LISTEN=[::]:9090
EXPOSE 8080 9090
USER 10001
ENTRYPOINT ["penr-webhooks"]
CMD ["run"]
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["penr-webhooks", "ready"]
# Where the sources are, and what they are of.
ARG SOURCE=https://penr.ai
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="penr-webhooks" \
      org.opencontainers.image.description="Delivers penr.ai's webhooks: RabbitMQ events in, signed POSTs out, at least once" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="$SOURCE" \
      org.opencontainers.image.version="$VERSION"
