# rollcall in a container: docker build -t rollcall . && docker run --rm -p 8000:8000 rollcall
# `docker compose up` (compose.yaml) runs three of them with Redis behind a proxy. Settings are variables: -e ROLLCALL_TTL=30s.

FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY benches benches
COPY loadtest loadtest
COPY src src
# What cargo downloads and compiles outlives the layer: a change of the sources compiles rollcall alone.
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin rollcall --config profile.release.strip=true \
    && cp target/release/rollcall /usr/local/bin/rollcall

# The Debian that the tests run on, with the C library that the figures were measured with, and a shell to look around with.
FROM debian:bookworm-slim
# For rediss://, nothing else is verified.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /usr/local/bin/rollcall /usr/local/bin/rollcall
# A variable and not a flag: `docker run rollcall --ttl 30s` still listens on all interfaces, and the health check asks there.
ENV ROLLCALL_LISTEN=0.0.0.0:8000
# A number, so that an orchestrator can see that it is not root.
USER 65532:65532
EXPOSE 8000
# Clients are told to come back (1012) within --drain, 5 s; Docker kills after 10.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s CMD ["rollcall", "health"]
ENTRYPOINT ["rollcall"]
