#!/usr/bin/env bash
# Builds the cpu image, runs it, shows it a cat, stops it, and complains about anything that is not as it should be.
#
# With Docker where an engine answers; else, as root, with buildah, on a base image that debootstrap makes
# from the Debian mirror apt is set up with. That base stays for the next time:
# `buildah rmi localhost/alexnet-smoke-base` removes it. The build's cached layers stay too, with either tool;
# everything else made here is cleaned up.
# Without an engine there is no read-only root, no capability to drop and no limit: those only Docker checks.
set -euo pipefail
cd "$(dirname "$0")/.."

picture=tests/pictures/cat.jpg
tag=$$
image=localhost/alexnet-smoke:$tag
base=localhost/alexnet-smoke-base
container=
runner= # process of `buildah run`
work=$(mktemp -d)

say() { printf -- '-- %s\n' "$*"; }
die() {
    printf 'smoke: %s\n' "$*" >&2
    if [[ -s $work/log ]]; then tail -n 30 "$work/log" >&2; fi
    exit 1
}
now() { date +%s%3N; }
get() { curl --noproxy '*' --silent --max-time 10 "$@"; }

[[ -f $picture ]] || die "there is no $picture"
command -v curl >/dev/null || die "curl is needed"
if docker info >/dev/null 2>&1; then
    tool=docker
elif command -v buildah >/dev/null; then
    tool=buildah
else
    die "neither a Docker engine nor buildah here (Debian: apt-get install buildah debootstrap)"
fi
say "with $tool"

cleanup() {
    if [[ $tool == docker ]]; then
        if [[ -n $container ]]; then docker rm --force "$container" >/dev/null 2>&1 || true; fi
        docker rmi "$image" >/dev/null 2>&1 || true
    else
        if [[ -n $runner ]] && kill -0 "$runner" 2>/dev/null; then kill -KILL "$(innermost "$runner")" || true; fi
        if [[ -n $container ]]; then buildah rm "$container" >/dev/null 2>&1 || true; fi
        buildah rmi "$image" >/dev/null 2>&1 || true
    fi
    rm -rf "$work"
}
trap cleanup EXIT

# The last of the single line of processes below the given one.
innermost() {
    local process=$1 child
    while child=$(cat "/proc/$process/task/"*/children 2>/dev/null | tr ' ' '\n' | grep -m 1 .); do process=$child; done
    echo "$process"
}

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
    local options=(--isolation chroot --network host --format docker --layers)
    if [[ $tool == docker ]]; then
        docker build --quiet --build-arg RUNTIME=cpu -t "$image" . >"$work/log" 2>&1 || die "the build failed"
        return
    fi
    buildah inspect --type image "$base" >/dev/null 2>&1 || make_base
    # pip in the build reaches its indexes the way pip out here does.
    if [[ -d /etc/ssl/certs ]]; then options+=(-v /etc/ssl/certs:/etc/ssl/certs:ro); fi
    if [[ -f /etc/pip.conf ]]; then options+=(-v /etc/pip.conf:/etc/pip.conf:ro); fi
    buildah bud "${options[@]}" --build-arg BASE="$base" --build-arg RUNTIME=cpu -t "$image" . \
        >"$work/log" 2>&1 || die "the build failed"
}

size_mb() {
    local bytes
    if [[ $tool == docker ]]; then
        bytes=$(docker image inspect --format '{{.Size}}' "$image")
    else
        bytes=$(du -sb "$(buildah mount "$container")" | cut -f 1)
        buildah umount "$container" >/dev/null
    fi
    echo $((bytes / 1000000))
}

free_port() {
    local port
    while port=$((20000 + RANDOM % 10000)); (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do :; done
    echo "$port"
}

start() {
    if [[ $tool == docker ]]; then
        # As in compose.yaml.
        container=$(docker run --detach --read-only --tmpfs /tmp --cap-drop ALL \
            --security-opt no-new-privileges:true --pids-limit 1024 --memory 3g --ulimit nofile=8192 \
            -p 127.0.0.1::8000 "$image")
        address=$(docker port "$container" 8000/tcp | head -n 1)
        return
    fi
    local port
    port=$(free_port)
    address=127.0.0.1:$port
    buildah config --env ALEXNET_PORT="$port" --env ALEXNET_HOST=127.0.0.1 "$container"
    # `buildah run` knows no entry point: the command is the image's own, read from it.
    local command
    mapfile -t command < <(buildah inspect --type image \
        --format '{{range .OCIv1.Config.Entrypoint}}{{println .}}{{end}}{{range .OCIv1.Config.Cmd}}{{println .}}{{end}}' \
        "$image" | grep .)
    buildah run --isolation chroot --network host "$container" -- "${command[@]}" >"$work/log" 2>&1 &
    runner=$!
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
    if [[ $tool == docker ]]; then
        docker exec "$container" "$@"
    else
        buildah run --isolation chroot --network host "$container" -- "$@"
    fi
}

user_id() {
    local process
    if [[ $tool == docker ]]; then
        process=$(docker inspect --format '{{.State.Pid}}' "$container")
        if [[ ! -r /proc/$process/status ]]; then # the engine is in a machine of its own
            docker exec "$container" python -c 'import os; print(os.getuid())'
            return
        fi
    else
        process=$(innermost "$runner")
    fi
    awk '/^Uid:/ { print $2 }' "/proc/$process/status"
}

# Sets `status` to what the service ended with.
stop() {
    if [[ $tool == docker ]]; then
        docker kill --signal TERM "$container" >/dev/null
        status=$(timeout 60 docker wait "$container") || die "it did not end within 60 s of SIGTERM"
    else
        kill -TERM "$(innermost "$runner")"
        for _ in {1..600}; do kill -0 "$runner" 2>/dev/null || break; sleep 0.1; done
        ! kill -0 "$runner" 2>/dev/null || die "it did not end within 60 s of SIGTERM"
        status=0
        wait "$runner" || status=$?
        runner=
    fi
}

began=$(now)
build
say "built in $((($(now) - began) / 1000)) s"
if [[ $tool == buildah ]]; then container=$(buildah from --name "alexnet-smoke-$tag" "$image"); fi
say "image size: $(size_mb) MB"

began=$(now)
start
until get --fail --output /dev/null "http://$address/readyz"; do
    running || die "it ended instead of starting"
    (($(now) - began < 60000)) || die "it was not ready within 60 s"
    sleep 0.05
done
say "ready after $(($(now) - began)) ms"

inside python /opt/healthcheck.py >>"$work/log" 2>&1 || die "its own health check fails"
say "its own health check agrees"

user=$(user_id)
[[ $user != 0 ]] || die "it runs as root"
say "runs as user $user"

answer=$(get --fail-with-body --data-binary "@$picture" -H 'Content-Type: image/jpeg' "http://$address/v1/predict") ||
    die "the picture was refused: $answer"
labels=$(grep -oE '"label": ?"[^"]*"' <<<"$answer" || true)
[[ $(grep -c . <<<"$labels") == 5 ]] || die "not five classes: $answer"
grep -qiE '\bcat\b' <<<"$labels" || die "no cat among the five: $answer"
say "a cat among the five: $(grep -iE -m 1 '\bcat\b' <<<"$labels")"

stop
[[ $status == 0 ]] || die "it ended with status $status after SIGTERM"
say "ended with status 0 after SIGTERM"
say "all well"
