#!/usr/bin/env bash
# Install the real servers that the tests start (as root on Debian or Ubuntu; elsewhere it lists what is missing).
set -eu
declare -A package=(   # command -> Debian package; each suite that starts a server adds its line
  [redis-server]=redis-server
  [mariadbd]=mariadb-server
  [nginx]=nginx
  [chromium-headless-shell]=chromium-headless-shell
  [promtool]=prometheus
  [node]=nodejs
  [openssl]=openssl
  [cc]=gcc
  [systemd-analyze]=systemd
)
PATH=$PATH:/usr/sbin:/sbin   # where Debian keeps servers, and not every shell looks
missing=()
for command in "${!package[@]}"; do
  command -v "$command" >/dev/null || missing+=("${package[$command]}")
done
[ ${#missing[@]} -eq 0 ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  apt-get update -q
  apt-cache show chromium-headless-shell >/dev/null 2>&1 || missing=("${missing[@]/chromium-headless-shell/chromium}")
  DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends "${missing[@]}"
else
  echo "tests that need these will be skipped until they are installed: ${missing[*]}" >&2
fi
