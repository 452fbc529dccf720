#!/usr/bin/env bash
# Proves that the Dockerfile builds, and that its image keeps the promises of docs/operate.md.
#
#   .ci/docker-proof.sh [CONTEXT]
#
# With a Docker engine and the internet it is plain `docker build` + `docker run`.
# Without an engine (Debian 12, root) it installs one and runs it privately under
# $STATE; without a container registry it makes local stand-ins for the FROM images.
#   STATE=/var/tmp/docker-proof   kept between runs: the next run reuses images and cache
#   ENGINE=bookworm|trixie     docker.io 20.10 (apt) or 26.1+buildx (unpacked .debs)
#
# On other people's machines without an engine and without root it says so and skips; with CI=true it fails.
# Never publish an image that was built on a stand-in.
set -euo pipefail
ctx=${1:-$(dirname "$0")/..}; file=$ctx/Dockerfile
STATE=${STATE:-/var/tmp/docker-proof}; ENGINE=${ENGINE:-bookworm}
RUST_VERSION=${RUST_VERSION:-1.95.0}
mkdir -p "$STATE"; t0=$SECONDS
say() { printf '[%4ds] %s\n' "$((SECONDS - t0))" "$*"; }
die() { say "FAILED: $*"; exit 1; }

# ---------------------------------------------------------------- engine
own_engine=0; NET=()
apt_install() { # only what is missing
  local want=(); for p; do dpkg -s "$p" >/dev/null 2>&1 || want+=("$p"); done
  [ ${#want[@]} = 0 ] && return
  apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${want[@]}" >/dev/null
}
unpack_trixie() { # newer engine beside the system, nothing installed; runc stays bookworm's (newer one needs a newer libc)
  local a=$STATE/apt r=$STATE/engine
  [ -x "$r/usr/sbin/dockerd" ] && return
  rm -rf "$r" "$a"; mkdir -p "$a"/etc/parts "$a"/state/lists/partial "$a"/cache/archives/partial "$a"/debs "$r"; : >"$a/state/status"
  sed 's/bookworm/trixie/g' /etc/apt/sources.list.d/debian.sources >"$a/etc/parts/debian.sources"
  local o=(-qq -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$a/etc/parts" -o Dir::State="$a/state"
           -o Dir::State::status="$a/state/status" -o Dir::Cache="$a/cache" -o APT::Sandbox::User=root)
  apt-get "${o[@]}" update
  (cd "$a/debs" && apt-get "${o[@]}" download docker.io docker-cli docker-buildx docker-compose containerd && for d in *.deb; do dpkg-deb -x "$d" "$r"; done)
}
start_engine() {
  if docker info >/dev/null 2>&1; then say "using the engine that is there"; return; fi
  if [ "$(id -u)" != 0 ]; then
    [ "${CI:-}" != true ] || die "no engine, and not root"
    say "skipped: there is no container engine, and only root can start one"; exit 0
  fi
  if [ "$ENGINE" = trixie ]; then
    apt_install runc iptables; unpack_trixie
    export PATH=$STATE/engine/usr/sbin:$STATE/engine/usr/bin:$PATH DOCKER_CONFIG=$STATE/cfg
    mkdir -p "$DOCKER_CONFIG"; ln -sfn "$STATE/engine/usr/libexec/docker/cli-plugins" "$DOCKER_CONFIG/cli-plugins"
  else
    apt_install docker.io iptables; export PATH=/usr/bin:$PATH   # its own CLI speaks BuildKit without buildx
  fi
  export DOCKER_HOST=unix://$STATE/docker.sock
  # No netfilter change, no forwarding: port mapping then goes through docker-proxy,
  # and a build reaches the registries over the host's network.
  dockerd --data-root "$STATE/data-$ENGINE" --exec-root "$STATE/exec" --pidfile "$STATE/dockerd.pid" -H "$DOCKER_HOST" \
    --iptables=false --ip6tables=false --ip-forward=false >"$STATE/dockerd.log" 2>&1 &
  engine_pid=$!; own_engine=1; NET=(--network host)
  for _ in $(seq 120); do docker info >/dev/null 2>&1 && break; kill -0 $engine_pid 2>/dev/null || { tail -5 "$STATE/dockerd.log"; die "dockerd ended"; }; sleep .25; done
  docker info >/dev/null 2>&1 || die "dockerd did not answer"
  say "engine $(docker version -f '{{.Server.Version}}'), $(docker info -f '{{.Driver}}')"
}
names=(); guests=
stop_all() {
  for n in "${names[@]}"; do docker rm -f "$n" >/dev/null 2>&1 || true; done
  docker volume rm "docker-proof-$$" >/dev/null 2>&1 || true; docker rmi -f "docker-proof-$$:test" >/dev/null 2>&1 || true
  [ -z "$guests" ] || rm -rf "$guests"
  if [ $own_engine = 1 ]; then
    kill "$engine_pid" 2>/dev/null || true; wait "$engine_pid" 2>/dev/null || true
    umount "$STATE/exec/netns/default" 2>/dev/null || true
    ip link del docker0 2>/dev/null || true
  fi
}
trap stop_all EXIT
build() { # BuildKit where it is to be had: by buildx, or by a CLI from before buildx became a must; else the legacy builder
  if docker buildx version >/dev/null 2>&1; then docker build "${NET[@]}" "$@"
  elif [[ $(/usr/bin/docker version -f '{{.Client.Version}}' 2>/dev/null) == 20.* ]]; then DOCKER_BUILDKIT=1 /usr/bin/docker build "${NET[@]}" "$@"
  else docker build "${NET[@]}" "$@"; fi
}

# ---------------------------------------------------------------- stand-ins
tmpfs() { [ "$(df --output=avail /dev/shm 2>/dev/null | tail -1)" -gt 2000000 ] 2>/dev/null && echo /dev/shm || echo "$STATE"; }
local_cas='for c in /usr/local/share/ca-certificates/*.crt; do [ -e "$c" ] && cp "$c" "$1/usr/local/share/ca-certificates/"; done; chroot "$1" update-ca-certificates'
slim=(--dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/info/*' --dpkgopt='path-exclude=/usr/share/locale/*'
      --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright')
standin_debian() { # debian:bookworm-slim, with ca-certificates and this host's own CAs added
  apt_install mmdebstrap
  TMPDIR=$(tmpfs) mmdebstrap -q --variant=minbase --include=ca-certificates "${slim[@]}" --aptopt='Acquire::Languages "none"' \
    --customize-hook="$local_cas" bookworm "$STATE/base.tar" >"$STATE/base.log" 2>&1 || { tail -5 "$STATE/base.log"; die mmdebstrap; }
  docker import --change 'CMD ["bash"]' "$STATE/base.tar" "$1" >/dev/null; rm -f "$STATE/base.tar"
}
standin_rust() { # rust:X-bookworm: gcc, make, git and the toolchain by rustup, laid out as the official image does
  ensure_image debian:bookworm-slim
  local c=$STATE/rust-ctx; mkdir -p "$c"; cp -L "$(command -v rustup)" "$c/rustup"
  cat >"$c/Dockerfile" <<D
FROM debian:bookworm-slim
ENV RUSTUP_HOME=/usr/local/rustup CARGO_HOME=/usr/local/cargo RUST_VERSION=$RUST_VERSION \
    PATH=/usr/local/cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
RUN apt-get update && apt-get install -y --no-install-recommends gcc g++ libc6-dev make pkg-config git curl && rm -rf /var/lib/apt/lists/*
COPY rustup /usr/local/cargo/bin/rustup
RUN for p in cargo rustc rustdoc; do ln -s rustup /usr/local/cargo/bin/\$p; done; rustup set auto-self-update disable \
 && rustup toolchain install $RUST_VERSION --profile minimal && rustup default $RUST_VERSION && cargo -V && chmod -R a+w \$RUSTUP_HOME \$CARGO_HOME
D
  build -q -t "$1" "$c" >/dev/null
}
ensure_image() {
  docker image inspect "$1" >/dev/null 2>&1 && return
  timeout 600 docker pull -q "$1" >/dev/null 2>&1 && { say "pulled $1"; return; }
  case $1 in
    debian:bookworm-slim|debian:bookworm|debian:12*) standin_debian "$1" ;;
    rust:*bookworm) standin_rust "$1" ;;
    *) die "cannot pull $1, and there is no stand-in for it" ;;
  esac
  say "made a stand-in for $1, $(docker image inspect -f '{{.Size}}' "$1" | numfmt --to=iec)"
}

# ---------------------------------------------------------------- the proof
start_engine
stages=" $(sed -nE 's/^FROM .* [Aa][Ss] ([^ ]+).*/\1/p' "$file" | tr '\n' ' ') scratch "
for i in $(sed -nE 's/^FROM +(--[^ ]+ +)*([^ ]+).*/\2/p' "$file" | sort -u); do
  # FROM ${NAME}: the default of that argument.
  case $i in '${'*'}') i=${i#??}; i=$(sed -nE "s/^ARG +${i%?}=(.*)/\1/p" "$file" | head -n 1) ;; esac
  case $stages in *" $i "*) ;; *) ensure_image "$i" ;; esac
done
tag=docker-proof-$$:test
build -t "$tag" -f "$file" "$ctx" >"$STATE/build.log" 2>&1 || { tail -40 "$STATE/build.log"; die "docker build"; }
say "built $file: $(docker image inspect -f '{{.Size}}' "$tag" | numfmt --to=iec)"

size=$(docker image inspect -f '{{.Size}}' "$tag")
[ "$size" -le 56000000 ] || die "the image has $size bytes, over 56 MB"

port() { python3 -c 'import socket;s=socket.socket();s.bind(("127.0.0.1",0));print(s.getsockname()[1])'; }
run() { # NAME docker-run-args...: starts it and waits until it answers; sets $n and $p
  n=docker-proof-$$-$1; p=$(port); shift; names+=("$n")
  docker run -d --name "$n" -p "127.0.0.1:$p:8080" "$@" "$tag" >/dev/null 2>"$STATE/run.err" || { cat "$STATE/run.err"; die "docker run $*"; }
  for _ in $(seq 100); do curl -sS -m 2 -o /dev/null "http://127.0.0.1:$p/nothing" 2>/dev/null && return; sleep .1; done
  docker logs "$n"; die "no HTTP answer: $*"
}
answers() { # PATH TEXT: within 10 s
  local got=
  for _ in $(seq 100); do got=$(curl -sS -m 2 "http://127.0.0.1:$p$1" 2>&1) && [ "$got" = "$2" ] && return; sleep .1; done
  docker logs "$n"; die "GET $1 answers: $got"
}
stop() { # SIGTERM must end it with 0
  local s=$SECONDS code; docker stop -t 10 "$n" >/dev/null; code=$(docker inspect -f '{{.State.ExitCode}}' "$n")
  [ "$code" = 0 ] || { docker logs "$n"; die "SIGTERM: exit $code"; }
  say "$1 (SIGTERM: exit 0 after $((SECONDS - s)) s)"; docker rm -f "$n" >/dev/null
}
users='[{"id":1,"name":"Alice"},{"id":2,"name":"Bob"}]'

run plain; answers /users "$users"; answers '/hello?name=Ada' 'Hello, Ada!'
# The machine code in the image is used: nothing was compiled, so both were there within a blink.
docker logs "$n" 2>&1 | grep -E 'compile cache' && die "the image's own cache is not used"
for _ in $(seq 100); do health=$(docker inspect -f '{{.State.Health.Status}}' "$n"); [ "$health" = healthy ] && break; sleep .2; done
[ "$health" = healthy ] || die "the health check says $health"
grep -q '^users ' <<<"$(docker exec "$n" lodge ps)" || die "docker exec $n lodge ps does not list users"
stop "docker run -p 8080:8080 IMAGE: serves hello and users, healthy"

# What https needs is there, and no key: whoever reads the image must not be able to sign machine code.
files=$STATE/files; source=docker-proof-$$-files; names+=("$source"); docker create --name "$source" "$tag" >/dev/null
docker export "$source" | tar -tv >"$files"
awk '$NF == "etc/ssl/certs/ca-certificates.crt" && $3 > 100000 { found = 1 } END { exit !found }' "$files" || die "no certificate authorities in the image"
grep -E ' (cache|code)/key$' "$files" && die "a key of the compile cache is in the image"
say "certificate authorities are in the image, and no key is"

guests=$(mktemp -d); chmod 755 "$guests"
component() { docker cp "$1:/guests/$2.wasm" "$guests/$3.part" >/dev/null && chmod 644 "$guests/$3.part" && mv "$guests/$3.part" "$guests/$3.wasm"; }
run volume -v "$guests:/guests:ro"
source=docker-proof-$$-source; names+=("$source"); docker create --name "$source" "$tag" >/dev/null
component "$source" users users; answers /users "$users"
component "$source" hello users; answers /users 'Hello, World!'
stop "-v guests:/guests: serves the directory, live"

run locked -v "$guests:/guests:ro" --read-only --user 10001 --cap-drop ALL --security-opt no-new-privileges --memory 256m --cpus 1 --pids-limit 128
answers /users 'Hello, World!'
stop "--read-only --cap-drop ALL --user 10001 --memory 256m"
# What a registry transfers: its layers are compressed by gzip.
compressed=$(docker save "$tag" | gzip -6 | wc -c)
say "ok, image of $(numfmt --to=iec "$size"), $(numfmt --to=iec "$compressed") compressed"
