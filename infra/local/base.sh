#!/bin/bash
# Make the base image of infra/Dockerfile from Debian's packages, where no registry of images can be reached.
# As root, with debootstrap and podman or docker: infra/local/base.sh        (MIRROR: of Debian; ENGINE: podman, docker)
# The tag is the one that the Dockerfile names; Python is Debian's 3.11 and thus older by some patches.
set -euo pipefail
cd "$(dirname "$0")/.."
engine=${ENGINE:-$(command -v podman || command -v docker || echo podman)}
mirror=${MIRROR:-$(sed -n 's/^URIs: *\([^ ]*\).*/\1/p' /etc/apt/sources.list.d/*.sources 2>/dev/null | head -n 1)}
image=$(sed -n 's/^FROM \(python:[^ ]*\).*/\1/p' Dockerfile | head -n 1)
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
# debootstrap knows no virtual packages: python3-distutils stands for the one that python3.11-venv asks for
packages=ca-certificates,python3.11,python3.11-venv,python3-distutils
debootstrap --variant=minbase --include="$packages" "${image##*-}" "$root" ${mirror:+"$mirror"} > "$root.log" \
    || { tail -n 5 "$root.log" >&2; exit 1; }
rm -rf "$root.log" "$root"/var/cache/apt/*.bin "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
# as the official images do: apt leaves no caches in a layer
cat > "$root/etc/apt/apt.conf.d/docker-clean" <<'END'
Dir::Cache::pkgcache ""; Dir::Cache::srcpkgcache "";
DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb || true"; };
END
ln -s /usr/bin/python3.11 "$root/usr/local/bin/python"
ln -s /usr/bin/python3.11 "$root/usr/local/bin/python3"
tar -C "$root" -c . | "$engine" import - "docker.io/library/$image" > /dev/null
"$engine" images "$image"
