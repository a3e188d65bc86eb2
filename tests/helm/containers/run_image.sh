#!/usr/bin/env bash
# Runs a command in an image's root as Kubernetes would: the root read-only, /tmp and /dev/shm writable, the image's user, no
# capability. Where no container runtime is at hand: a mount namespace and a chroot.
#   tests/helm/containers/run_image.sh WORKDIR TAG COMMAND...
set -euo pipefail
work=$1 tag=$2
shift 2
store=(--root "$work/storage" --runroot "$work/run" --storage-driver vfs)
# One root for all commands, as none can write to it: making one copies the whole image. build_image.sh removes it.
container=expertmesh-${tag##*:}
buildah "${store[@]}" inspect --type container "$container" >/dev/null 2>&1 \
  || buildah "${store[@]}" from --name "$container" --pull-never "$tag" >/dev/null
user=$(buildah "${store[@]}" inspect --format '{{.OCIv1.Config.User}}' "$container")
environment=$(buildah "${store[@]}" inspect --format '{{range .OCIv1.Config.Env}}{{println .}}{{end}}' "$container")
root=$(buildah "${store[@]}" mount "$container")
export ROOT=$root IMAGE_USER=$user IMAGE_ENV=$environment
# setpriv is util-linux's, as is unshare; the command replaces it, so that signals arrive.
unshare --mount --propagation private bash -euc '
  mount --bind "$ROOT" "$ROOT"
  mount -t proc proc "$ROOT/proc"
  mount --rbind /dev "$ROOT/dev"
  mount --rbind /sys "$ROOT/sys"
  mount -t tmpfs -o mode=1777 tmpfs "$ROOT/tmp"
  mount -o remount,ro,bind "$ROOT"
  mapfile -t variables <<<"$IMAGE_ENV"
  exec env -i "${variables[@]}" /usr/sbin/chroot "$ROOT" /usr/bin/setpriv --reuid "${IMAGE_USER%%:*}" --regid "${IMAGE_USER##*:}" \
    --clear-groups --bounding-set=-all --inh-caps=-all --no-new-privs /bin/bash -c "cd /tmp && exec \"\$0\" \"\$@\"" "$@"
' run "$@" &
child=$!
trap 'kill -TERM $child 2>/dev/null || true' TERM INT
# A signal ends a wait: the one after it has the command's own status.
status=0; wait $child || status=$?
if [ $status -gt 128 ]; then status=0; wait $child || status=$?; fi
exit $status
