"""What a program beside a job's checkpoints has answered: JSON, or whatever it printed last when it could not.

It is untrusted input: whatever it is, it is shown as text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from deepseek_client.errors import ClientError


@contextmanager
def understood(text: str, otherwise: str, refused: type[ClientError] = ClientError) -> Iterator[Any]:
    """An answer, for as long as it is taken apart.

    Args:
        otherwise: what to say when it is none.
        refused: what to raise when it says what is wrong.

    Raises:
        ClientError: it is none, or has not what is looked for in it; with its last line.
    """
    try:
        said = json.loads(text)
        if "error" in said:
            raise refused(str(said["error"])[:1000])
        yield said
    except (ValueError, KeyError, TypeError) as error:
        last = (text.strip().splitlines() or ["nothing"])[-1]
        raise ClientError(f"{otherwise}; its last line: {last[:300]}") from error
