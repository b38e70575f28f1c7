#!/usr/bin/env bash
# Builds the cpu image, runs it as compose.yaml would, shows it a cat, stops it, and complains about anything
# that is not as docs/containers.md has it.
#
#   docker/smoke.sh                about a minute
#   docker/smoke.sh --export       the image whose model is exported in a stage of its build: minutes, and torch
#   RUNTIME=gpu docker/smoke.sh    the gpu image: 1.6 GB of wheels; without a GPU it should serve and warn
#   BASE=IMAGE docker/smoke.sh     on another base
#
# With Docker where an engine answers; else, as root, buildah builds and crun runs, on a base image that
# debootstrap makes from the Debian mirror apt is set up with. That base stays for the next time:
# `buildah rmi localhost/alexnet-smoke-base` removes it. The build's cached layers stay too, with either tool;
# everything else made here is cleaned up.
# Without an engine there are no limits of memory and processes, and no network of the container's own.
set -euo pipefail
cd "$(dirname "$0")/.."

runtime=${RUNTIME:-cpu}
target=
case ${1:-} in
'') ;;
--export) target=exported ;;
*) printf 'usage: docker/smoke.sh [--export]\n' >&2; exit 2 ;;
esac

photograph=tests/pictures/cat.jpg
bundled=service/bundled/alexnet.onnx
tag=$$
image=localhost/alexnet-smoke:$tag
base=${BASE:-}
container=
runner= # process of `crun run`
work=$(mktemp -d)

say() { printf -- '-- %s\n' "$*"; }
die() {
    printf 'smoke: %s\n' "$*" >&2
    if [[ -s $work/log ]]; then tail -n 30 "$work/log" >&2; fi
    exit 1
}
now() { date +%s%3N; }
get() { curl --noproxy '*' --silent --max-time 10 "$@"; }

[[ -f $photograph ]] || die "there is no $photograph"
command -v curl >/dev/null || die "curl is needed"
if docker info >/dev/null 2>&1; then
    tool=docker
elif command -v buildah >/dev/null && command -v crun >/dev/null; then
    tool=buildah
else
    die "neither a Docker engine nor buildah and crun here (Debian: apt-get install buildah crun debootstrap)"
fi
say "with $tool"

# crun, as if this machine had no cgroups: it refuses some kinds of them even when told to use none.
crun() {
    unshare --mount sh -c 'mount -t tmpfs none /sys/fs/cgroup && exec crun --root "$0" --cgroup-manager=disabled "$@"' \
        "$work/crun" "$@"
}

cleanup() {
    if [[ $tool == docker ]]; then
        if [[ -n $container ]]; then docker rm --force "$container" >/dev/null 2>&1 || true; fi
        docker rmi "$image" >/dev/null 2>&1 || true
    else
        if [[ -n $runner ]]; then crun delete --force smoke >/dev/null 2>&1 || true; fi
        if [[ -n $container ]]; then buildah rm "$container" >/dev/null 2>&1 || true; fi
        buildah rmi "$image" >/dev/null 2>&1 || true
    fi
    rm -rf "$work"
}
trap cleanup EXIT

make_base() {
    local mirror release from
    command -v debootstrap >/dev/null || die "debootstrap is needed to make a base image"
    release=bookworm
    # The first address in apt's sources that ends in /debian, in either of apt's two formats.
    mirror=$(grep -rhoE '^(deb |URIs:).*https?://[^ ]+/debian/?( |$)' /etc/apt/sources.list /etc/apt/sources.list.d 2>/dev/null |
        grep -m 1 -oE 'https?://[^ ]+/debian/?' || true)
    mirror=${mirror:-http://deb.debian.org/debian}
    say "making the base image: Debian $release from $mirror"
    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates \
        "$release" "$work/base" "$mirror" >"$work/log" 2>&1 || die "debootstrap failed"
    rm -rf "$work/base"/var/cache/apt/* "$work/base"/var/lib/apt/lists/*
    if [[ -f /etc/ssl/certs/ca-certificates.crt ]]; then
        cp -L /etc/ssl/certs/ca-certificates.crt "$work/base/etc/ssl/certs/ca-certificates.crt"
    fi
    from=$(buildah from scratch)
    buildah add --quiet "$from" "$work/base" / >/dev/null
    buildah config --cmd /bin/sh "$from"
    buildah commit --quiet --rm "$from" "$base" >/dev/null
    rm -rf "$work/base"
}

build() {
    local arguments=(--build-arg RUNTIME="$runtime" -t "$image")
    if [[ -n $base ]]; then arguments+=(--build-arg BASE="$base"); fi
    if [[ -n $target ]]; then
        # The bundled model is a checkpoint too: another precision of it is another model.
        arguments+=(--target "$target" --build-arg WEIGHTS="$bundled" --build-arg PRECISION=fp32)
    fi
    if [[ $tool == docker ]]; then
        docker build --quiet "${arguments[@]}" . >"$work/log" 2>&1 || die "the build failed"
        return
    fi
    if [[ -z $base ]]; then
        base=localhost/alexnet-smoke-base
        buildah inspect --type image "$base" >/dev/null 2>&1 || make_base
        arguments+=(--build-arg BASE="$base")
    fi
    # pip in the build reaches its indexes the way pip out here does.
    local options=(--isolation chroot --network host --format docker --layers)
    if [[ -d /etc/ssl/certs ]]; then options+=(-v /etc/ssl/certs:/etc/ssl/certs:ro); fi
    if [[ -f /etc/pip.conf ]]; then cp /etc/pip.conf "$work/pip.conf"; else echo '[global]' >"$work/pip.conf"; fi
    if [[ -d ${PIP_FIND_LINKS:-} ]]; then
        echo "find-links = $PIP_FIND_LINKS" >>"$work/pip.conf"
        options+=(-v "$PIP_FIND_LINKS:$PIP_FIND_LINKS:ro")
    fi
    buildah bud "${options[@]}" -v "$work/pip.conf:/etc/pip.conf:ro" "${arguments[@]}" . >"$work/log" 2>&1 ||
        die "the build failed"
}

size_mb() {
    local bytes
    if [[ $tool == docker ]]; then
        bytes=$(docker image inspect --format '{{.Size}}' "$image")
    else
        bytes=$(du -sb "$root" | cut -f 1)
    fi
    echo $((bytes / 1000000))
}

free_port() {
    local port
    while port=$((20000 + RANDOM % 10000)); (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do :; done
    echo "$port"
}

# Options: --user UID:GID, --volume SOURCE:TARGET. Returns when it is ready.
start() {
    local port began
    began=$(now)
    if [[ $tool == docker ]]; then
        # As in compose.yaml.
        container=$(docker run --detach --read-only --tmpfs /tmp:size=64m,mode=1777,noexec,nosuid,nodev --cap-drop ALL \
            --security-opt no-new-privileges:true --pids-limit 1024 --memory 3g --ulimit nofile=16384 \
            -p 127.0.0.1::8000 "$@" "$image")
        address=$(docker port "$container" 8000/tcp | head -n 1)
    else
        port=$(free_port)
        address=127.0.0.1:$port
        mkdir -p "$work/bundle"
        buildah inspect --type image "$image" |
            python3 docker/bundle.py "$root" --env ALEXNET_PORT="$port" --env ALEXNET_HOST=127.0.0.1 "$@" \
                >"$work/bundle/config.json"
        crun run --bundle "$work/bundle" smoke >"$work/log" 2>&1 &
        runner=$!
    fi
    until get --fail --output /dev/null "http://$address/readyz"; do
        running || die "it ended instead of starting"
        (($(now) - began < 60000)) || die "it was not ready within 60 s"
        sleep 0.05
    done
    say "ready after $(($(now) - began)) ms"
}

running() {
    if [[ $tool == docker ]]; then
        docker logs "$container" >"$work/log" 2>&1
        [[ $(docker inspect --format '{{.State.Running}}' "$container") == true ]]
    else
        kill -0 "$runner" 2>/dev/null
    fi
}

inside() {
    if [[ $tool == docker ]]; then docker exec "$container" "$@"; else crun exec smoke "$@"; fi
}

stop() {
    local status=0
    if [[ $tool == docker ]]; then
        docker kill --signal TERM "$container" >/dev/null
        status=$(timeout 60 docker wait "$container") || die "it did not end within 60 s of SIGTERM"
        docker rm "$container" >/dev/null
        container=
    else
        crun kill smoke TERM
        for _ in {1..600}; do kill -0 "$runner" 2>/dev/null || break; sleep 0.1; done
        ! kill -0 "$runner" 2>/dev/null || die "it did not end within 60 s of SIGTERM"
        wait "$runner" || status=$?
        runner=
        crun delete --force smoke
    fi
    [[ $status == 0 ]] || die "it ended with status $status after SIGTERM"
    say "ended with status 0 after SIGTERM"
}

field() { grep -oE "\"$1\": ?\"[^\"]*\"" | head -n 1 | sed -E 's/.*"([^"]*)"$/\1/'; }

# The last bytes of a model file are its SHA-256 in hex; a version is its first 12 digits.
version_of() { tail -c 64 "$1" | head -c 12; }

# Arguments: the version that it should serve, its precision.
check_health() {
    local health
    health=$(get --fail-with-body "http://$address/health") || die "not healthy: $health"
    [[ $(field version <<<"$health") == "$1" ]] || die "not model $1: $health"
    [[ $(field precision <<<"$health") == "$2" ]] || die "not in $2: $health"
    if [[ $runtime == gpu ]] && grep -q '"provider": *"CPU' <<<"$health"; then
        [[ -n $(field warning <<<"$health") ]] || die "no GPU, and no warning: $health"
        say "warns: $(field warning <<<"$health")"
    fi
    say "serves model $1, $2, $(field provider <<<"$health")"
    inside python /opt/healthcheck.py >>"$work/log" 2>&1 || die "its own health check fails"
    say "its own health check agrees"
}

check_promises() {
    inside python -c "$(<docker/probe.py)" "$1" >>"$work/log" 2>&1 || die "a promise is broken"
    say "user $1, read-only root, no capabilities, no new privileges, no pip, no compiler"
}

check_prediction() {
    local answer labels
    answer=$(get --fail-with-body --data-binary "@$photograph" -H 'Content-Type: image/jpeg' "http://$address/v1/predict") ||
        die "the image was refused: $answer"
    labels=$(grep -oE '"label": ?"[^"]*"' <<<"$answer" || true)
    [[ $(grep -c . <<<"$labels") == 5 ]] || die "not five classes: $answer"
    grep -qiE '\bcat\b' <<<"$labels" || die "no cat among the five: $answer"
    say "a cat among the five: $(grep -iE -m 1 '\bcat\b' <<<"$labels")"
}

began=$(now)
build
say "built in $((($(now) - began) / 1000)) s"
if [[ $tool == buildah ]]; then
    container=$(buildah from --name "alexnet-smoke-$tag" "$image")
    root=$(buildah mount "$container")
fi
say "image size: $(size_mb) MB"

start
if [[ -z $target ]]; then
    check_health "$(version_of $bundled)" int8
else
    inside cat /model/alexnet.onnx >"$work/exported.onnx"
    [[ $(version_of "$work/exported.onnx") != "$(version_of $bundled)" ]] || die "the model is the bundled one"
    check_health "$(version_of "$work/exported.onnx")" fp32
fi
check_promises 10001
check_prediction

# Another model: the bundled one with one more entry of metadata, "own": "x", and so another checksum.
inside python -c '
import hashlib, sys
from service.inference.model_file import MARK, TAIL
content = open("/model/alexnet.onnx", "rb").read()[:-TAIL] + b"\x72\x08\x0a\x03own\x12\x01x"
sys.stdout.buffer.write(content + MARK + hashlib.sha256(content).hexdigest().encode())
' >"$work/own.onnx" || die "no other model could be made"
chmod 0644 "$work/own.onnx"
chmod 0755 "$work"
precision=$(get "http://$address/health" | field precision)
stop

say "again, with a model mounted, and as a user that the image has never heard of"
start --user 1234567:0 --volume "$work/own.onnx:/model/alexnet.onnx:ro"
check_health "$(version_of "$work/own.onnx")" "$precision"
check_promises 1234567
check_prediction
stop
say "all well"
