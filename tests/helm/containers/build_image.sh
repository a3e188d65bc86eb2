#!/usr/bin/env bash
# Builds the image for real where no container registry can be reached: the base is made from Debian's packages, the rest is
# deploy/docker/Dockerfile as it stands. Exit code 77: this machine lacks what it takes (the reason is on stderr).
#   tests/helm/containers/build_image.sh WORKDIR TAG [FLAVOR]      the image's name is TAG, WORKDIR keeps the base and buildah's
#                                                       storage; FLAVOR is cpu or cuda, cpu if not given
set -euo pipefail
work=$1 tag=$2 flavor=${3:-cpu}
root=$(cd "$(dirname "$0")/../../.." && pwd)
for tool in buildah mmdebstrap; do
  command -v "$tool" >/dev/null || { echo "$tool is not installed" >&2; exit 77; }
done
[ "$(id -u)" = 0 ] || { echo "building in a chroot needs root" >&2; exit 77; }
mkdir -p "$work"
store=(--root "$work/storage" --runroot "$work/run" --storage-driver vfs)
# Python's headers are in the Dockerfile's own base too, without the C library's, which their package would bring.
base=localhost/expertmesh-base:bookworm-headers
export HEADERS='cd /tmp && apt-get download libpython3.11-dev && dpkg -x libpython3.11-dev_*.deb / && rm libpython3.11-dev_*.deb'
if ! buildah "${store[@]}" inspect --type image "$base" >/dev/null 2>&1; then
  [ -d "$work/base-headers" ] || mmdebstrap --variant=minbase --include=python3,python3-venv,bash,ca-certificates \
    --customize-hook='chroot "$1" sh -c "$HEADERS"' bookworm "$work/base-headers" >&2 \
    || { rm -rf "$work/base-headers"; echo "mmdebstrap cannot make a base" >&2; exit 77; }
  container=$(buildah "${store[@]}" from scratch)
  buildah "${store[@]}" copy --quiet "$container" "$work/base-headers" / >&2
  buildah "${store[@]}" commit --quiet --rm "$container" "$base" >&2
fi
buildah "${store[@]}" rm "expertmesh-${tag##*:}" >/dev/null 2>&1 || true  # run_image.sh's, of an older image
# This machine's own settings of pip and its certificates, as mounts, of which nothing stays in the image: one file of
# settings, and whatever file or directory they name.
settings=()
python3 -m pip config list | sed -n "s/^\(global\|:env:\)\.\([a-z-]*\)='\(.*\)'$/\2 = \3/p" | sort -u -t= -k1,1 \
  | sed '1i [global]' >"$work/pip.conf"
settings+=(--volume "$work/pip.conf:/etc/pip.conf:ro")
for path in $(sed 's#file://##g' "$work/pip.conf" | grep -oE '(^| )/[^ ]+' | sed 's#/simple$##' | sort -u) /etc/ssl/certs/ca-certificates.crt; do
  if [ -e "$path" ]; then settings+=(--volume "$(realpath "$path"):$path:ro"); fi
done
buildah "${store[@]}" bud --format docker --isolation chroot --pull-never --network host --layers=false \
  "${settings[@]}" --build-arg BASE="$base" --build-arg FLAVOR="$flavor" --build-arg TORCH_INDEX= \
  --ignorefile "$root/.dockerignore" -f "$root/deploy/docker/Dockerfile" -t "$tag" "$root" >&2
