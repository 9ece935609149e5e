"""What the shards of a source have in them, as far as they were done: nobody knows before, as no store is made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from deepseek_trainer.contract import QUARANTINED_LENGTH, QUARANTINED_SHOWN, Data
from deepseek_trainer.data.store import StoreInfo
from deepseek_trainer.errors import DataError


@dataclass(frozen=True)
class Contents:
    """Of the shards that are done for the first time.

    Attributes:
        quarantined: records that were left out; examples: the first of them.
    """

    tokens: int = 0
    documents: int = 0
    quarantined: int = 0
    examples: tuple[str, ...] = ()

    def with_more(self, more: Iterable[Contents]) -> Contents:
        """These and those of other shards."""
        all_ = [self, *more]
        return Contents(
            sum(one.tokens for one in all_),
            sum(one.documents for one in all_),
            sum(one.quarantined for one in all_),
            tuple(islice((example for one in all_ for example in one.examples), QUARANTINED_SHOWN)),
        )

    def require_few_bad(self, may_skip: int) -> None:
        """Raises DataError if more records were bad than may be left out."""
        if self.quarantined > may_skip:
            raise DataError(
                f"{self.quarantined} bad records so far, of which data.maxBadRecords allows {may_skip}; the first: "
                f"{self.examples[0]}"
            )

    def report(self) -> Data | None:
        """For those who watch the job; None before anything is known."""
        if not self.tokens:
            return None
        return Data(tokens=self.tokens, documents=self.documents, quarantined=self.quarantined, examples=self.examples)


def of(info: StoreInfo, bad: Sequence[Mapping[str, Any]]) -> Contents:
    """The contents of one shard, of which these records were left out."""
    said = (f"{', '.join(filter(None, (entry['file'], entry['place'])))}: {entry['reason']}" for entry in bad)
    examples = tuple(example[:QUARANTINED_LENGTH] for example in islice(said, QUARANTINED_SHOWN))
    return Contents(info.tokens, info.documents, sum(entry["count"] for entry in bad), examples)
