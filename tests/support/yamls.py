"""YAML as libyaml reads it: the parser in Python takes half a second for the CRD."""

from __future__ import annotations

from typing import Any

import yaml


def documents(text: str) -> list[Any]:
    """All documents of a file; an empty one is left out."""
    return [document for document in yaml.load_all(text, yaml.CSafeLoader) if document]


def document(text: str) -> Any:
    """The only one of a file."""
    (found,) = documents(text)
    return found
