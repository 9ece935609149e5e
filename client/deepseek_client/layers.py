"""What a job is put together from: presets below its manifest, and `--set` above it. What is above counts.

A preset is a part of a DeepSeekJob, one of those here or a file. Sections are merged, everything else is replaced, lists
too; null takes out what is below. What comes of it is checked as any manifest is.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from deepseek_client import manifest, overrides
from deepseek_client.errors import ClientError, ManifestError
from deepseek_client.overrides import Override

PARTS = ("apiVersion", "kind", "metadata", "spec")
"""That a preset may have."""
_SHIPPED = resources.files("deepseek_client") / "presets"
_FILES = (".yaml", ".yml", ".json")


@dataclass(frozen=True)
class Preset:
    """A part of a manifest, by the name or the path that it was asked for by."""

    name: str
    document: dict[str, Any]


@dataclass(frozen=True)
class Layers:
    """What was asked for beside the manifest, the lowest first."""

    presets: Sequence[Preset] = ()
    overrides: Sequence[Override] = ()

    def around(self, document: dict[str, Any]) -> dict[str, Any]:
        """The whole of them and a manifest; a copy.

        Raises:
            ClientError: an override leads nowhere.
        """
        whole: dict[str, Any] = {}
        for layer in (*(preset.document for preset in self.presets), document):
            whole = merged(whole, layer)
        return overrides.applied(whole, self.overrides)

    def called(self, source: str) -> str:
        """A manifest's name in what is said of it."""
        return f"{source} (with preset {', '.join(preset.name for preset in self.presets)})" if self.presets else source


def parse(presets: Sequence[str], sets: Sequence[str]) -> Layers:
    """What was written on the command line.

    Raises:
        ClientError: there is no such preset, or it is none; a path isn't written as one.
    """
    return Layers([preset(name) for name in presets], overrides.parse(sets))


def shipped() -> dict[str, str]:
    """The texts of the presets that are here, by name. The first line says what one is for."""
    files = [file for file in _SHIPPED.iterdir() if file.name.endswith(".yaml")]
    return {file.name.removesuffix(".yaml"): file.read_text(encoding="utf-8") for file in sorted(files, key=str)}


def preset(name: str) -> Preset:
    """The preset of that name, or of that file, which has an ending or a folder.

    Raises:
        ClientError: there is none, or it is no part of a manifest.
    """
    is_file = "/" in name or name.endswith(_FILES)
    document = manifest.load(Path(name)) if is_file else yaml.safe_load(text(name))
    if unknown := next((str(part) for part in document if part not in PARTS), None):
        near = difflib.get_close_matches(unknown, PARTS, n=1) or ["spec"]
        raise ManifestError(name, [f"{unknown}: a preset has {', '.join(PARTS)}; did you mean {near[0]}?"])
    return Preset(name, document)


def text(name: str) -> str:
    """Of a preset that is here.

    Raises:
        ClientError: it isn't; with the nearest name.
    """
    known = shipped()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)};"
        raise ClientError(f"preset {name}: not known; {hint} one of your own is given by its file, as ./{name}.yaml")
    return known[name]


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Both; neither is changed. Null above takes out what is below."""
    whole = dict(below)
    for name, value in above.items():
        here = whole.get(name)
        if isinstance(here, dict) and isinstance(value, dict):
            whole[name] = merged(here, value)
        elif value is None and name in below:
            del whole[name]
        else:
            whole[name] = value
    return whole
