# Run rollcall in a container, open and reachable only from this machine:
#   docker build -t rollcall . && docker run --rm -p 127.0.0.1:8000:8000 -e ROLLCALL_OPEN=1 rollcall
# `docker compose up` (compose.yaml) runs three nodes with Redis behind a proxy. Every setting is also a
# variable: -e ROLLCALL_TTL=30s. `docker build --target minimal .` makes an image without a distribution.

FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock build.rs ./
COPY benches benches
COPY loadtest loadtest
COPY src src
# Downloaded and compiled crates are cached outside the layer, so a change of the sources compiles only rollcall.
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin rollcall --config profile.release.strip=true \
    && cp target/release/rollcall /usr/local/bin/rollcall

FROM build AS files
COPY deploy/image/root-files .
RUN ./root-files /usr/local/bin/rollcall /root-files

# Only the program, its libraries and the certificates of authorities: no shell.
FROM scratch AS minimal
COPY --from=files /root-files /
ENV ROLLCALL_LISTEN=0.0.0.0:8000
USER 65532:65532
EXPOSE 8000
STOPSIGNAL SIGTERM
# Absolute paths, because this image sets no PATH.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s CMD ["/usr/local/bin/rollcall", "health"]
ENTRYPOINT ["/usr/local/bin/rollcall"]

# The Debian that the tests and measurements use, with a shell for debugging.
FROM debian:bookworm-slim
# For the certificates of rediss://, --jwks-url, --auth-url and --webhook-url.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /usr/local/bin/rollcall /usr/local/bin/rollcall
# A variable instead of a flag, so that `docker run rollcall --ttl 30s` still listens on all interfaces.
# Never ROLLCALL_OPEN: whoever runs the image decides whether clients may claim any user id.
ENV ROLLCALL_LISTEN=0.0.0.0:8000
# A number, so that orchestrators can check that it is not root.
USER 65532:65532
EXPOSE 8000
# Clients are closed with 1012 (reconnect) within --drain, 5 s. Docker kills the container after 10 s.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s CMD ["rollcall", "health"]
ENTRYPOINT ["rollcall"]
