"""What is trained on: `spec.data`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from deepseek_trainer.config.base import Section
from deepseek_trainer.config.batching import BatchingSpec, ShuffleSpec

FieldName = Annotated[str, Field(min_length=1, max_length=256)]


class DatasetSpec(Section):
    """A dataset of the Hugging Face datasets library. The image needs the package; no code of a dataset is run."""

    name: Annotated[str, Field(min_length=1, max_length=4096)] = Field(
        description="Its name on the hub, as org/name; or a folder on a volume of the workers, absolute: one that save_to_disk "
        "wrote, or one that load_dataset reads."
    )
    config: FieldName | None = Field(None, description="Its configuration (subset). Default: the dataset's own.")
    split: FieldName = Field("train", description="Its split; train[:10%] and the like are understood.")
    revision: FieldName | None = Field(
        None,
        description="Branch, tag or commit of one on the hub. Default: the newest when the data is first prepared; after that the "
        "job keeps to the store that was made of it.",
    )


class ChatSpec(Section):
    """Instruction data: conversations that become text by a chat template."""

    messages_field: FieldName = Field(
        "messages",
        description="The field of a record that has the conversation: a list of objects with role and content.",
    )
    template: Literal["Tokenizer", "DeepSeek"] = Field(
        "Tokenizer",
        description="Tokenizer: the chat template beside initialWeights (chat_template.jinja, or in tokenizer_config.json). "
        "DeepSeek: the published format of DeepSeek's chat models, for a vocabulary that has its marks; tokenizer.kind bpe "
        "gets them.",
    )
    loss: Literal["Assistant", "All"] = Field(
        "Assistant",
        description="What is to be predicted. Assistant: what the assistant says, and the token that ends it. All: every token.",
    )


SHARD_BYTES = 2**20


class DynamicSpec(Section):
    """Dynamic mode: what is leased, and whether more arrives."""

    shard_bytes: Annotated[int, Field(ge=2**10, le=2**30)] = Field(
        SHARD_BYTES,
        description="How much of the source a lease has, where files can be cut; a smaller file is a shard of its own. A shard "
        "should have several times the samples that a rank trains in a step.",
    )
    stream: bool = Field(
        False,
        description="true: data.path is a folder to which files are added while the job trains, complete (by a rename) and under "
        "names that sort in the order of arrival. An empty file _SUCCESS says that no more come: the job succeeds when all is "
        "trained, or after trainer.training.steps. While there is nothing to train it waits. Each file is trained once, and has "
        "to stay as it is until the job has ended.",
    )


class DataSpec(Section):
    """What is trained on: a named corpus, files on a mounted volume, or a dataset of the Hugging Face library."""

    corpus: Literal["chitchat", "gcide"] | None = Field(
        None,
        description="A named corpus with a pinned version and hash. chitchat: 258,145 utterances of real dialogue (MIT). "
        "gcide: a 40 MB English dictionary (GPL). textField, textFields and chat are of other sources, and not looked at.",
    )
    path: Annotated[str, Field(min_length=1, max_length=4096, pattern="^/")] | None = Field(
        None,
        description="A file, or a folder of files, on a volume of the workers; absolute. Read are .txt (a document each), .json "
        "(an array of records, or a record a line), .jsonl, these with .gz behind it, and .parquet; and a path that ends in "
        ".lmdb, a database with a record as JSON, or a text, in each value.",
    )
    dataset: DatasetSpec | None = Field(
        None, description="A dataset of the Hugging Face library, from the hub or from a volume."
    )
    text_field: Annotated[str, Field(min_length=1, max_length=256)] = Field(
        "text", description="The field of a record that holds the text: a key of JSON, a column of Parquet."
    )
    text_fields: Annotated[tuple[FieldName, ...], Field(min_length=2, max_length=16)] | None = Field(
        None, description="Two or more fields that are joined to one text, in this order; in place of textField."
    )
    separator: Annotated[str, Field(max_length=256)] = Field(
        "\n", description="What is put between the texts of textFields."
    )
    chat: ChatSpec | None = Field(
        None, description="Records are conversations, for instruction tuning; in place of textField and textFields."
    )
    on_bad_record: Literal["Fail", "Quarantine"] = Field(
        "Fail",
        description="What becomes of a record that can't be read or has no text. Fail: the job fails, and names file, line and "
        "reason. Quarantine: it is left out, and listed in the token store's quarantine.jsonl and in the status.",
    )
    max_bad_records: Annotated[int, Field(ge=1, le=1_000_000_000)] = Field(
        100, description="With Quarantine: how many records may be left out; with more the job fails."
    )
    validation_fraction: Annotated[float, Field(gt=0, lt=0.5)] = Field(
        0.02, description="Share of the samples that is held out for validation."
    )
    mode: Literal["Deterministic", "Dynamic"] = Field(
        "Deterministic",
        description="How the ranks come by their samples. Deterministic: all is tokenised first, and what a step trains on is a "
        "function of its number. Dynamic: training begins with the first tokens; the ranks lease shards of the source, a slow one "
        "less than the others, so what a step trains on depends on how fast they are. In both each sample is trained exactly "
        "once an epoch, whatever fails. Dynamic is with batching.mode Stream only; batching.dealing is always by pace, and "
        "shuffle means nothing: shards come in a random order, and the rows of each, but in a stream as they arrive.",
    )
    dynamic: DynamicSpec = Field(default_factory=DynamicSpec, description="For mode Dynamic.")
    batching: BatchingSpec = Field(
        default_factory=BatchingSpec, description="How documents become the samples of a batch."
    )
    shuffle: ShuffleSpec = Field(
        default_factory=ShuffleSpec, description="The order of the samples, which is another in each epoch."
    )
    allow_change: bool = Field(
        False,
        description="What happens when a checkpoint was trained on other data, another cut, order or global batch than this "
        "job asks for. false: the job fails and names the differences. true: it goes on with the new data from its "
        "beginning, and the checkpoints keep on record what was trained before.",
    )
    audit: bool = Field(
        False,
        description="true: every rank writes down, beside the checkpoints, which samples it has really trained in each "
        "step (4 bytes a sample), and `dsj audit` proves from it that none was lost or repeated. Needs spec.checkpoint.",
    )

    @model_validator(mode="after")
    def _exactly_one_source(self) -> DataSpec:
        if sum(source is not None for source in (self.corpus, self.path, self.dataset)) != 1:
            raise ValueError("set exactly one of data.corpus, data.path and data.dataset")
        return self

    @model_validator(mode="after")
    def _fits_its_mode(self) -> DataSpec:
        if self.mode == "Deterministic":
            if self.dynamic != DynamicSpec():
                raise ValueError(
                    "data.dynamic belongs to mode Dynamic; set data.mode to Dynamic, or remove data.dynamic"
                )
            return self
        if self.batching.mode != "Stream":
            raise ValueError(
                "mode Dynamic cuts shards into rows: set data.batching.mode to Stream, or data.mode to Deterministic"
            )
        if self.shuffle != ShuffleSpec():
            raise ValueError(
                "mode Dynamic has no windows of blocks: remove data.shuffle, or set data.mode to Deterministic"
            )
        if self.dynamic.stream and self.path is None:
            raise ValueError("a stream is a folder: set data.path, or remove data.dynamic.stream")
        return self
