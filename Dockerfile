# Run rollcall in a container: docker build -t rollcall . && docker run --rm -p 8000:8000 rollcall
# `docker compose up` (compose.yaml) runs three nodes with Redis behind a proxy. Every setting is also a
# variable: -e ROLLCALL_TTL=30s.

FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY benches benches
COPY loadtest loadtest
COPY src src
# Downloaded and compiled crates are cached outside the layer, so a change of the sources compiles only rollcall.
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin rollcall --config profile.release.strip=true \
    && cp target/release/rollcall /usr/local/bin/rollcall

# The Debian that the tests and measurements use, with a shell for debugging.
FROM debian:bookworm-slim
# Only rediss:// verifies certificates.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /usr/local/bin/rollcall /usr/local/bin/rollcall
# A variable instead of a flag, so that `docker run rollcall --ttl 30s` still listens on all interfaces and the health
# check asks the right address.
ENV ROLLCALL_LISTEN=0.0.0.0:8000
# A number, so that orchestrators can check that it is not root.
USER 65532:65532
EXPOSE 8000
# Clients are closed with 1012 (reconnect) within --drain, 5 s. Docker kills the container after 10 s.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s CMD ["rollcall", "health"]
ENTRYPOINT ["rollcall"]
