#!/bin/sh
# The tests open the built book in a headless Chromium; install Debian's when there is none.
set -eu
command -v chromium >/dev/null 2>&1 || command -v chromium-browser >/dev/null 2>&1 && exit 0
if command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" = 0 ]; then
    apt-get update -qq
    apt-get install -y -qq chromium
else
    echo "Chromium is missing and cannot be installed here: install it (Debian, Ubuntu: sudo apt-get install chromium)." >&2
    exit 1
fi
