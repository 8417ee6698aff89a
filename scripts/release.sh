#!/usr/bin/env bash
# Builds what a release consists of beside its images, into dist/: the wheel and the chart.
#
#   scripts/release.sh 0.1.0
#
# The version must be that of pyproject.toml and of helm/Chart.yaml. PYTHON and HELM choose the programs.
set -euo pipefail
cd "$(dirname "$0")/.."
version=${1:?say which version, as in pyproject.toml}
python=${PYTHON:-python3}
helm=${HELM:-helm}

differs() {
    echo "release: $1 says version $2, not $version; change it first" >&2
    exit 1
}
wheel=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)
chart=$(sed -n 's/^version: \(.*\)$/\1/p' helm/Chart.yaml)
app=$(sed -n 's/^appVersion: "\(.*\)"$/\1/p' helm/Chart.yaml)
[[ $wheel == "$version" ]] || differs pyproject.toml "$wheel"
[[ $chart == "$version" ]] || differs helm/Chart.yaml "$chart"
[[ $app == "$version" ]] || differs "helm/Chart.yaml (appVersion)" "$app"

mkdir -p dist
"$python" -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
"$helm" package helm --destination dist
ls dist
