#!/bin/sh
# Fetch the browser assets that the built book and its tests need, once; the result is committed with its licences.
# The book uses MathJax, the tests use axe-core. Usage, from the repository's root: sh scripts/vendor.sh
set -eu
root=$(pwd)
vendor=$root/book/static/vendor/mathjax
axe=$root/tests/book/assets
mkdir -p "$vendor/output/chtml/fonts" "$axe"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
npm init -y >/dev/null
npm install --silent --ignore-scripts mathjax@3.2.2 axe-core@4.10.3
cp node_modules/mathjax/es5/tex-chtml-full.js node_modules/mathjax/LICENSE "$vendor/"
cp -r node_modules/mathjax/es5/output/chtml/fonts/woff-v2 "$vendor/output/chtml/fonts/"
cp node_modules/axe-core/axe.min.js "$axe/"
cp node_modules/axe-core/LICENSE "$axe/LICENSE.axe-core"
