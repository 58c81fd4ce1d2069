# syntax=docker/dockerfile:1

FROM rust:1-bookworm AS build
WORKDIR /src
COPY . .
# Dependencies stay compiled in the cache mounts, whatever changes in our own files.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin penr-webhooks \
    && cp target/release/penr-webhooks /usr/local/bin/

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home penr
COPY config/development.toml config/production.toml /etc/penr-webhooks/
COPY --from=build /usr/local/bin/penr-webhooks /usr/local/bin/
USER 10001
ENTRYPOINT ["penr-webhooks"]
CMD ["run"]
