#!/usr/bin/env bash
# Bring the vendored packages here, at these versions; what is changed is said in README.md beside this.
set -euo pipefail
cd "$(dirname "$0")"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
unpack() { # name@version, sha256 of its archive
  (cd "$scratch" && npm pack --silent "$1" >/dev/null && echo "$2 $(ls "${1%%@*}"-*.tgz)" | sha256sum --check --quiet &&
    tar xzf "${1%%@*}"-*.tgz && mv package "${1%%@*}")
}
unpack swagger-ui-dist@5.35.0 1b8e891893404ea4c3558b6a87e2a3e494e7eedba41168c2ece5800a391a6ea6
unpack redoc@2.5.4 44922df4d0eb45c1b066c09ec251e6bd9bd7ded16bc69e87613337b9d911a56e
unpack embedding-atlas@0.26.0 677a24ca34ce74357eec1f94f2a9954ede0d7e8c67e69c898e3fceb4142e04b9
unpack uplot@1.6.32 4b8a8191e425658e3ea8c8c1314b0fc679c861ee3a1af2b20c7b16ba50b5133d
mkdir -p swagger-ui redoc embedding-atlas uplot
cp "$scratch"/swagger-ui-dist/{LICENSE,NOTICE,swagger-ui.css,swagger-ui-bundle.js,swagger-ui-bundle.js.LICENSE.txt} swagger-ui/
cp "$scratch"/redoc/LICENSE "$scratch"/redoc/bundles/{redoc.standalone.js,redoc.standalone.js.LICENSE.txt} redoc/
sed -i '/^\/[/*]# sourceMappingURL=/d' swagger-ui/*.js swagger-ui/*.css redoc/*.js
dot=data:image/gif\;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw==
sed -i "s|https://cdn.redoc.ly/redoc/logo-mini.svg|$dot|g" redoc/redoc.standalone.js
# The program for WebAssembly as a file of its own: a third smaller, and no `data:` in the policy.
umap=$scratch/embedding-atlas/dist/chunk-Bn3LaujC.js
wasm='data:application/wasm;base64,\([A-Za-z0-9+/=]*\)'
sed -n "s|.*$wasm.*|\1|p" "$umap" | base64 -d > embedding-atlas/umap.wasm
sed -e "s|$wasm|umap.wasm|" -e 's/^export {.* \([a-z]*\) as r.*/export { \1 as createUMAPFromKNN };/' "$umap" > embedding-atlas/umap.js
cp "$scratch"/uplot/LICENSE uplot/
cp "$scratch"/uplot/dist/uPlot.min.css uplot/uPlot.css
{ cat "$scratch"/uplot/dist/uPlot.iife.min.js; echo 'export default uPlot;'; } > uplot/uPlot.js
