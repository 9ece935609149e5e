"""The models: their published sizes, their first weights, and attention that keeps documents apart in each of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from deepseek_trainer.config import ConfigError, ModelSpec, TrainerSpec
from deepseek_trainer.model import attention, build, origin, presets, recipes
from deepseek_trainer.model.layers import decoder_layers, tensors
from pydantic import ValidationError
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3ForCausalLM

pytestmark = [pytest.mark.training, pytest.mark.timeout(400)]

ARCHITECTURES = list(presets.FIELDS)
NARROW = {
    "DeepSeekV3": {"hiddenSize": 32, "numLayers": 2, "numExperts": 4},
    "DeepSeekV2": {"hiddenSize": 32, "numLayers": 2, "numExperts": 4},
    "Qwen2": {"hiddenSize": 32, "numLayers": 2},
    "Llama": {"hiddenSize": 32, "numLayers": 2},
    "GPT2": {"hiddenSize": 32, "numLayers": 2},
}
VOCABULARY = 64
DENSE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
"""As configurations of transformers name it."""


def a_spec(model: dict[str, Any], **rest: Any) -> TrainerSpec:
    return TrainerSpec.model_validate({"model": model, "training": {"steps": 1, "sequenceLength": 16}, **rest})


def narrow(architecture: str, **model: Any) -> origin.Origin:
    return origin.of(a_spec({"architecture": architecture, **NARROW[architecture], **model}), vocab_size=VOCABULARY)


@pytest.mark.parametrize(
    ("preset", "vocabulary", "expected"),
    [
        # As the repositories of the published weights say; DeepSeek-V3 with its routers' biases (58 x 256).
        ("deepseek-v3", 129280, 671_026_419_200),
        ("deepseek-v2", 102400, 235_741_434_880),
        ("deepseek-v2-lite", 102400, 15_706_484_224),
        ("r1-distill-qwen-1.5b", 151936, 1_777_088_000),
        ("r1-distill-qwen-7b", 152064, 7_615_616_512),
        ("r1-distill-qwen-14b", 152064, 14_770_033_664),
        ("r1-distill-qwen-32b", 152064, 32_763_876_352),
        ("r1-distill-llama-8b", 128256, 8_030_261_248),
        ("r1-distill-llama-70b", 128256, 70_553_706_496),
        # Counted by hand: (50265 + 2048) * 1024 + 24 * (12 * 1024^2 + 13 * 1024) + 2 * 1024.
        ("reference", 50265, 355_879_936),
    ],
)
def test_a_preset_has_the_size_of_the_published_model(preset: str, vocabulary: int, expected: int) -> None:
    spec = ModelSpec.model_validate({"preset": preset})
    model = build.bare(build.configuration(spec, vocab_size=vocabulary, sequence_length=2048))
    biases = sum(buffer.numel() for name, buffer in model.named_buffers() if name.endswith("correction_bias"))
    assert build.parameter_count(model) + biases == expected
    assert all(parameter.is_meta for parameter in model.parameters())


def test_every_preset_can_be_chosen() -> None:
    assert {*presets.SIZED, *presets.PUBLISHED} == set(get_args(ModelSpec.model_fields["preset"].annotation))
    for sized in presets.SIZED.values():
        assert list(sized) == ARCHITECTURES


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_first_weights_are_those_of_the_architecture_and_of_the_names_alone(architecture: str) -> None:
    source = narrow(architecture)
    model, again = source.model(), source.model()
    torch.manual_seed(0)
    reference = type(model)(source.config)  # as transformers draws it
    for (name, tensor), (_, same), (_, theirs) in zip(
        tensors(model).items(), tensors(again).items(), tensors(reference).items(), strict=True
    ):
        assert torch.equal(tensor, same), name
        assert not tensor.is_meta
        assert torch.allclose(tensor.double().mean(), theirs.double().mean(), atol=5e-3), name
        assert torch.allclose(tensor.double().std(), theirs.double().std(), rtol=0.3, atol=1e-6), name
    resumed = source.bare()
    source.fill(resumed, torch.device("cpu"), drawn=False)
    unsaved = tensors(resumed).keys() - resumed.state_dict().keys()
    assert all(torch.equal(tensors(resumed)[name], tensors(model)[name]) for name in unsaved)
    assert bool(unsaved) == (architecture != "GPT2"), "rotary frequencies"
    deeper = narrow(architecture, numLayers=3).model()
    shared = tensors(deeper).keys() & tensors(model).keys()
    alike = {name for name in shared if torch.equal(tensors(deeper)[name], tensors(model)[name])}
    scaled = {name for name in shared if architecture == "GPT2" and name.endswith("c_proj.weight")}  # by the depth
    assert alike == shared - scaled


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_part_is_drawn_as_in_the_whole(architecture: str) -> None:
    bare = narrow(architecture).bare()
    known = recipes.of(bare)
    for name, tensor in tensors(bare).items():
        shape = tensor.shape
        whole = known[name].draw(shape, tuple(slice(0, size) for size in shape), seed=7, name=name)
        half = tuple(slice(size // 2, size) if i == 0 else slice(0, size) for i, size in enumerate(shape))
        assert torch.equal(known[name].draw(shape, half, seed=7, name=name), whole[half]), name
        none = tuple(slice(size, size) if i == 0 else slice(0, size) for i, size in enumerate(shape))
        assert known[name].draw(shape, none, seed=7, name=name).shape == whole[none].shape


@pytest.mark.parametrize("chosen", ["SDPA", "Eager"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_documents_in_a_row_are_as_if_alone_however_attention_is_computed(architecture: str, chosen: str) -> None:
    model = narrow(architecture, attention=chosen).model().eval()
    assert len(decoder_layers(model)) == 2
    tokens = torch.randint(0, VOCABULARY, (1, 16), generator=torch.Generator().manual_seed(5))
    positions = torch.cat([torch.arange(9), torch.arange(7)])[None]
    with torch.no_grad():
        together = model(input_ids=tokens, position_ids=positions, use_cache=False).logits
        first = model(input_ids=tokens[:, :9], use_cache=False).logits
        second = model(input_ids=tokens[:, 9:], use_cache=False).logits
        other = narrow(architecture).model().eval()(input_ids=tokens, position_ids=positions, use_cache=False).logits
    assert torch.allclose(together, torch.cat([first, second], dim=1), atol=1e-5)
    assert torch.allclose(together, other, atol=1e-5)


@pytest.mark.parametrize(("chosen", "precision"), [("Flash", "bf16"), ("Flex", "fp32")])
def test_attention_that_needs_a_gpu_is_refused_without(chosen: str, precision: str) -> None:
    spec = TrainerSpec.model_validate(
        {"model": {"attention": chosen}, "training": {"steps": 1, "precision": precision}}
    )
    with pytest.raises(ConfigError, match=r"trainer\.model\.attention: .* needs a GPU.*take SDPA"):
        attention.require(spec, torch.device("cpu"))
    if precision == "bf16":
        spec = spec.model_copy(update={"training": spec.training.model_copy(update={"precision": "fp32"})})
        with pytest.raises(ConfigError, match=r"set trainer\.training\.precision to bf16"):
            attention.require(spec, torch.device("cuda"))


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ({"architecture": "Qwen2", "numExperts": 4}, "has no experts"),
        ({"preset": "r1-distill-llama-8b", "expertsPerToken": 2}, "has no experts"),
        ({"numKeyValueHeads": 2}, "remove numKeyValueHeads"),
        ({"preset": "deepseek-v3", "architecture": "Llama"}, "remove architecture"),
        ({"architecture": "Llama", "multiToken": {"depth": 1}}, "set multiToken.depth to 0"),
        ({"path": "/m", "numLayers": 2}, "remove"),
        ({"architecture": "Llama", "hiddenSize": 34}, "no multiple of the 4 attention heads"),
        ({"architecture": "Qwen2", "hiddenSize": 20}, "take a multiple of 8"),
        ({"architecture": "Qwen2", "numKeyValueHeads": 3}, "take a divisor"),
        ({"architecture": "DeepSeekV2", "hiddenSize": 33}, "no multiple of the 4 attention heads"),
        ({"numExperts": 2, "expertsPerToken": 2, "preset": "deepseek-v3"}, "take a multiple of 8"),
        ({"preset": "tiny", "numExperts": 2, "expertsPerToken": 3}, "expertsPerToken"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_with_a_remedy(model: dict[str, Any], says: str) -> None:
    with pytest.raises((ValidationError, ConfigError), match=says):
        origin.of(a_spec(model), vocab_size=VOCABULARY)


def test_learned_positions_end() -> None:
    spec = TrainerSpec.model_validate(
        {"model": {"preset": "reference"}, "training": {"steps": 1, "sequenceLength": 4096}}
    )
    with pytest.raises(ConfigError, match=r"sequenceLength: 4096 is more than the 2048 positions"):
        origin.of(spec, vocab_size=VOCABULARY)


def _saved(folder: Path, model: Any) -> Path:
    model.save_pretrained(folder)
    return folder


def _qwen() -> Any:
    return Qwen2ForCausalLM(Qwen2Config(**DENSE, tie_word_embeddings=True))


def _llama() -> Any:
    ropes = {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}
    return LlamaForCausalLM(LlamaConfig(**DENSE, rope_parameters=ropes))


def _mixture() -> Any:
    return DeepseekV3ForCausalLM(narrow("DeepSeekV3").config)


@pytest.mark.parametrize("make", [_qwen, _llama, _mixture])
def test_a_model_of_hugging_face_is_read_as_transformers_reads_it(make: Any, tmp_path: Path) -> None:
    theirs = make().eval()
    folder = _saved(tmp_path / "hf", theirs)
    spec = a_spec({}, task="finetune", initialWeights={"path": str(folder)}, tokenizer={"kind": "initialWeights"})
    ours = origin.of(spec, vocab_size=VOCABULARY).model().eval()
    tokens = torch.arange(16)[None]
    with torch.no_grad():
        assert torch.allclose(ours(input_ids=tokens).logits, theirs(input_ids=tokens).logits, atol=1e-6)
    assert len(load_file(folder / "model.safetensors")) > 10
    described = origin.of(a_spec({"path": str(folder)}), vocab_size=VOCABULARY)
    assert described.identity() == origin.of(spec, vocab_size=VOCABULARY).identity()
    assert not torch.equal(described.model().get_output_embeddings().weight, theirs.get_output_embeddings().weight)


def test_code_beside_a_model_runs_only_when_it_is_trusted(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "own.py").write_text(
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "class OwnConfig(LlamaConfig):\n    model_type = 'own'\n"
        "class OwnModel(LlamaForCausalLM):\n    config_class = OwnConfig\n"
    )
    said = {
        **json.loads(_llama().config.to_json_string(use_diff=False)),
        "model_type": "own",
        "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"},
    }
    (folder / "config.json").write_text(json.dumps(said))
    with pytest.raises(ConfigError, match=r"trainer\.model\.path: .*trainer\.model\.trustRemoteCode"):
        origin.of(a_spec({"path": str(folder)}), vocab_size=VOCABULARY)
    trusted = origin.of(a_spec({"path": str(folder), "trustRemoteCode": True}), vocab_size=VOCABULARY)
    assert type(trusted.model()).__name__ == "OwnModel"


def test_norms_are_those_of_their_formulas() -> None:
    x = torch.randn(3, 32, generator=torch.Generator().manual_seed(4)) * 5 + 2
    layer = narrow("GPT2").model().transformer.h[0].ln_1
    with torch.no_grad():
        layer.weight.copy_(torch.linspace(0.5, 1.5, 32))
        layer.bias.copy_(torch.linspace(-1, 1, 32))
        spread = torch.rsqrt(x.var(-1, unbiased=False, keepdim=True) + layer.eps)
        wanted = (x - x.mean(-1, keepdim=True)) * spread * layer.weight + layer.bias
        assert layer.eps == 1e-5
        assert torch.allclose(layer(x), wanted, atol=1e-6)
        root = narrow("DeepSeekV3").model().model.norm
        root.weight.copy_(torch.linspace(0.5, 1.5, 32))
        wanted = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + root.variance_epsilon) * root.weight
        assert torch.allclose(root(x), wanted, atol=1e-5)
