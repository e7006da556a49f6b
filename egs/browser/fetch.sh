#!/usr/bin/env bash
# Puts the files of onnxruntime-web that the page needs (MIT licence, 14 MB) into vendor/: one version, from npm, checked
# against the checksum below. What is there already is kept. Needs npm. Usage: egs/browser/fetch.sh
#   TARBALL  onnxruntime-web-1.30.0.tgz, in the environment; downloaded when not given
set -euo pipefail
version=1.30.0
integrity=q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==
files=(ort.wasm.min.mjs ort-wasm-simd-threaded.mjs ort-wasm-simd-threaded.wasm)
tarball=${TARBALL:+$(realpath -m "$TARBALL")}
cd "$(dirname "$0")"
[ "$(cat vendor/VERSION 2>/dev/null)" != "$version" ] || exit 0

temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT
if [ -z "$tarball" ]; then
    command -v npm > /dev/null || { echo "fetch.sh: no npm; install Node.js, or name the package with TARBALL=" >&2; exit 2; }
    (cd "$temporary" && npm pack --silent "onnxruntime-web@$version" > /dev/null)
    tarball=$temporary/onnxruntime-web-$version.tgz
fi
[ -f "$tarball" ] || { echo "fetch.sh: $tarball: no such file" >&2; exit 2; }
found=$(openssl dgst -sha512 -binary "$tarball" | openssl base64 -A)
[ "$found" = "$integrity" ] || { echo "fetch.sh: $tarball: sha512 is $found, expected $integrity" >&2; exit 2; }

tar -xzf "$tarball" -C "$temporary" "${files[@]/#/package/dist/}"
mkdir -p vendor
for file in "${files[@]}"; do
    mv "$temporary/package/dist/$file" vendor/
done
echo "$version" > vendor/VERSION # the last: it says that all is there
