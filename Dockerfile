# syntax=docker/dockerfile:1
# docker build -t portolan:0.1.0 .

# The version that rust-toolchain.toml names, on the distribution of the last stage: both have the
# same C library.
FROM rust:1.95.0-slim-bookworm AS build
# The image's own toolchain, and not a second download for the components that only developers need.
ENV RUSTUP_TOOLCHAIN=1.95.0
WORKDIR /source
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/source/target \
    cargo build --release --locked --package portolan \
    && install -D -m 0755 target/release/portolan /image/usr/bin/portolan
# What must be there, since the last stage has no shell to make it.
RUN install -d /image/etc/portolan \
    && install -D -m 0644 -t /image/usr/share/doc/portolan LICENSE NOTICE \
    && install -d -m 0700 -o 65532 -g 65532 /image/var/lib/portolan

# The C library, the certificates of public authorities, a user without rights; no shell, no packages.
FROM gcr.io/distroless/cc-debian12:nonroot
# With the owners they were given: the user of this image is 65532.
COPY --from=build /image /
USER 65532:65532
# Those of deploy/portolan.yaml. The admin API stays inside unless its `bind` says otherwise.
EXPOSE 80 443
# No HEALTHCHECK: what it would ask is the admin API, whose address and token are the configuration's.
# deploy/README.md has the line to add for yours.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/bin/portolan"]
CMD ["run", "--config", "/etc/portolan/portolan.yaml"]
