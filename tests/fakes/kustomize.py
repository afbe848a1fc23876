"""What `kustomize build` makes of a folder, as far as our manifests need it: resources, components, patches, images."""

import copy
from pathlib import Path
from typing import Any

import yaml

Manifest = dict[str, Any]

_DIRECTIVES = {"apiVersion", "kind", "resources", "components", "patches", "images"}


def build(folder: Path) -> list[Manifest]:
    """Every manifest of the folder's kustomization; raises where a file is missing or a patch finds nothing."""
    return _extended([], folder)


def _extended(manifests: list[Manifest], folder: Path) -> list[Manifest]:
    plan = _read(folder / "kustomization.yaml")
    unknown = plan.keys() - _DIRECTIVES
    assert not unknown, f"this builder knows nothing of {unknown}"
    for name in plan.get("resources", ()):
        path = folder / name
        manifests = [*manifests, *(build(path) if path.is_dir() else [_read(path)])]
    for name in plan.get("components", ()):
        manifests = _extended(manifests, folder / name)
    for patch in plan.get("patches", ()):
        manifests = _patched(manifests, _read(folder / patch["path"]))
    for image in plan.get("images", ()):
        _set_image(manifests, image["name"], image["newTag"])
    assert len({_identity(one) for one in manifests}) == len(manifests)
    return manifests


def _read(path: Path) -> Manifest:
    return dict(yaml.safe_load(path.read_text(encoding="utf-8")))


def _identity(manifest: Manifest) -> tuple[str, str, str]:
    return manifest["apiVersion"], manifest["kind"], manifest["metadata"]["name"]


def _patched(manifests: list[Manifest], patch: Manifest) -> list[Manifest]:
    assert _identity(patch) in {_identity(one) for one in manifests}, f"nothing to patch: {_identity(patch)}"
    return [_merged(one, patch) if _identity(one) == _identity(patch) else one for one in manifests]


def _merged(value: Any, patch: Any) -> Any:
    """Maps are merged and null deletes; lists of things with names are merged by name, other lists replaced."""
    if isinstance(value, dict) and isinstance(patch, dict):
        merged = {key: _merged(value.get(key), one) for key, one in patch.items() if one is not None}
        return {key: one for key, one in value.items() if key not in patch} | merged
    if _named(value) and _named(patch):
        changes = {one["name"]: one for one in patch}
        kept = [_merged(one, changes.pop(one["name"], {})) for one in value]
        return [*changes.values(), *kept]
    if isinstance(patch, dict):
        return {key: _merged(None, one) for key, one in patch.items() if one is not None}
    return copy.deepcopy(patch)


def _named(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) and "name" in one for one in value)


def _set_image(manifests: list[Manifest], name: str, tag: str) -> None:
    for manifest in manifests:
        if manifest["kind"] == "Deployment":
            for container in manifest["spec"]["template"]["spec"]["containers"]:
                if container["image"] == name:
                    container["image"] = f"{name}:{tag}"
