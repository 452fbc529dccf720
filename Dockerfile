# The host, the sample services with their machine code, the system's certificate authorities, and nothing else: no shell, no
# libc, no package.
#   docker build -t lodge . && docker run -p 8080:8080 lodge
#   docker run -p 8080:8080 -v $PWD/guests:/guests lodge
# To build on a base image that cannot change, name it by digest: --build-arg RUST_IMAGE=rust@sha256:...

ARG RUST_IMAGE=rust:1.95-bookworm

FROM ${RUST_IMAGE} AS build
ARG TARGETARCH=amd64
# The time of every file in the image, in seconds since 1970, so that equal sources make an equal image.
ARG SOURCE_DATE_EPOCH=0
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates musl-tools && rm -rf /var/lib/apt/lists/*
RUN case $TARGETARCH in arm64) echo aarch64 ;; *) echo x86_64 ;; esac >/arch
WORKDIR /src
COPY rust-toolchain.toml ./
RUN rustup target add "$(cat /arch)-unknown-linux-musl" wasm32-wasip2
COPY . .
# Names and lines stay out of the image: they are three quarters of the binary. So do the paths of this build. The linker is told
# to strip, since the profile's 'strip' does not hold for a package that has settings of its own in the profile.
ENV CARGO_PROFILE_RELEASE_DEBUG=false \
    RUSTFLAGS="--remap-path-prefix=/src=lodge --remap-path-prefix=/usr/local/cargo=cargo" \
    CFLAGS="-ffile-prefix-map=/src=lodge -ffile-prefix-map=/usr/local/cargo=cargo"
# A static program that can be anywhere in memory has a list of its own pointers, which is 3 MB long if it is not packed.
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    RUSTFLAGS="$RUSTFLAGS -C strip=symbols -C link-arg=-Wl,-z,pack-relative-relocs" \
    cargo build --release --locked --package lodge --features redis,nats,postgres,s3 --target "$(cat /arch)-unknown-linux-musl" \
 && cargo build --profile guest --locked --target wasm32-wasip2 -p hello -p users -p visits \
 && mkdir -p /out/guests \
 && cp "target/$(cat /arch)-unknown-linux-musl/release/lodge" /out/lodge \
 && cp target/wasm32-wasip2/guest/hello.wasm target/wasm32-wasip2/guest/users.wasm target/wasm32-wasip2/guest/visits.wasm \
    guests/*.toml /out/guests/
# Machine code without a key: the image's digest vouches for it.
RUN /out/lodge compile /out/guests --cache-directory /tmp/cache --seal /out/code && mkdir /out/cache /out/data
RUN cp -L /etc/ssl/certs/ca-certificates.crt /out/ && find /out -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +

FROM scratch
LABEL org.opencontainers.image.title="Lodge" \
      org.opencontainers.image.description="Microservices as WebAssembly components, without a container each" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.documentation="docs/SUMMARY.md"
COPY --from=build /out/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/lodge /usr/local/bin/lodge
COPY --from=build --chown=10001:10001 /out/guests /guests
COPY --from=build /out/code /code
COPY --from=build --chown=10001:10001 --chmod=700 /out/cache /cache
COPY --from=build --chown=10001:10001 --chmod=700 /out/data /data
ENV PATH=/usr/local/bin \
    LODGE_LISTEN=0.0.0.0:8080 LODGE_ADMIN=0.0.0.0:9090 LODGE_GUESTS=/guests LODGE_CACHE_DIRECTORY=/cache LODGE_CACHE_SEALED=/code \
    LODGE_STATE_PATH=/data/state.db
USER 10001:10001
EXPOSE 8080 9090
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=6s --start-period=60s CMD ["lodge", "health"]
ENTRYPOINT ["lodge"]
CMD ["serve"]
