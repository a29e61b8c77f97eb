#!/usr/bin/env bash
# Install the real servers that the tests start (as root on Debian or Ubuntu; elsewhere it lists what is missing),
# and the client libraries that they run.
set -eu
declare -A package=(   # command -> Debian package; each suite that starts a server adds its line
  [redis-server]=redis-server
  [mariadbd]=mariadb-server
  [nginx]=nginx
  [chromium-headless-shell]=chromium-headless-shell
  [promtool]=prometheus
  [node]=nodejs
  [npm]=npm
  [openssl]=openssl
  [cc]=gcc
  [systemd-analyze]=systemd
)
PATH=$PATH:/usr/sbin:/sbin   # where Debian keeps servers, and not every shell looks
missing=()
for command in "${!package[@]}"; do
  command -v "$command" >/dev/null || missing+=("${package[$command]}")
done
if [ ${#missing[@]} -eq 0 ]; then
  :
elif [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  apt-get update -q
  apt-cache show chromium-headless-shell >/dev/null 2>&1 || missing=("${missing[@]/chromium-headless-shell/chromium}")
  DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends "${missing[@]}"
else
  echo "tests that need these will be skipped until they are installed: ${missing[*]}" >&2
fi
tests/dialects/clients/setup.sh
