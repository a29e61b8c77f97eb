#!/usr/bin/env bash
# Bring the vendored packages here, at these versions; what is changed is said in README.md beside this.
set -euo pipefail
cd "$(dirname "$0")"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
unpack() { (cd "$scratch" && npm pack --silent "$1" >/dev/null && tar xzf "${1%%@*}"-*.tgz && mv package "${1%%@*}"); }
unpack swagger-ui-dist@5.35.0
unpack redoc@2.5.4
mkdir -p swagger-ui redoc
cp "$scratch"/swagger-ui-dist/{LICENSE,NOTICE,swagger-ui.css,swagger-ui-bundle.js,swagger-ui-bundle.js.LICENSE.txt} swagger-ui/
cp "$scratch"/redoc/LICENSE "$scratch"/redoc/bundles/{redoc.standalone.js,redoc.standalone.js.LICENSE.txt} redoc/
sed -i '/^\/[/*]# sourceMappingURL=/d' swagger-ui/*.js swagger-ui/*.css redoc/*.js
dot=data:image/gif\;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw==
sed -i "s|https://cdn.redoc.ly/redoc/logo-mini.svg|$dot|g" redoc/redoc.standalone.js
