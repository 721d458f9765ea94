# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
The result of a clip does not depend on other clips or on padding.

A clip alone runs without a mask. So the comparison with the same clip in a padded batch also compares the masked
computation with the plain one.
"""

import copy

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import distributed, nn

from sanet_hf import SANetFeatureExtractor, SANetModel, batchnorm_sanet, modeling_sanet
from sanet_hf.batchnorm_sanet import SANetBatchNorm
from sanet_hf.layers_sanet import downsample_mask, zero_padded_frames


# Changes to the tiny model of conftest.py. Its first kernel is even, the others are odd.
VARIANTS = {
    "even_and_odd_kernels": {},
    "even_kernels": {"conv_kernel": (16, 4, 2), "conv_stride": (4, 2, 2)},
    "odd_kernels": {"conv_kernel": (9, 5, 3), "conv_stride": (2, 1, 2)},
    "kernels_smaller_than_strides": {"conv_kernel": (2, 1, 1), "conv_stride": (5, 2, 1)},
    "groups": {"conv_groups": (1, 2, 4)},
    "no_squeeze_excitation": {"use_squeeze_excitation": False},
    "no_attention": {"attention_after": (), "attention_dim": ()},
    "attention_after_every_stage": {"attention_after": (0, 1, 2), "attention_dim": (8, 16, 8)},
    "attention_stride_1": {"attention_stride": 1},
    "attention_stride_3": {"attention_stride": 3},
    "one_stage": {"conv_dim": (8,), "conv_kernel": (6,), "conv_stride": (3,), "attention_after": (0,)},
    "two_channels": {"num_channels": 2},
}


def make_clips(lengths: list[int], seed: int = 0, num_channels: int = 1) -> list[torch.Tensor]:
    """Return clips of shape (samples,), or (channels, samples), at the level of the feature extractor."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(length,) if num_channels == 1 else (num_channels, length) for length in lengths]
    return [0.1 * torch.randn(shape, generator=generator) for shape in shapes]


def pad(clips: list[torch.Tensor], length: int, filling: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a batch of clips padded to `length` and its mask."""
    batch = clips[0].new_full((len(clips), *clips[0].shape[:-1], length), filling)
    for row, clip in zip(batch, clips):
        row[..., : clip.shape[-1]] = clip
    lengths = torch.tensor([clip.shape[-1] for clip in clips])
    return batch, (torch.arange(length) < lengths.unsqueeze(1)).long()


def assert_alone_like_in_batch(model, clips: list[torch.Tensor], padding: int, filling: float) -> None:
    """Compare each clip of a padded batch with the clip alone, unpadded and padded to the maximum length."""
    longest = max(clip.shape[-1] for clip in clips)
    limit = model.config.max_input_samples or 4000
    clips = [clip.to(model.dtype) for clip in clips]
    exact = model.dtype == torch.float64
    with torch.no_grad():
        batched = model(*pad(clips, min(longest + padding, limit), filling), output_hidden_states=True)
        for index, clip in enumerate(clips):
            for alone in (
                model(clip.unsqueeze(0), output_hidden_states=True),
                model(*pad([clip], limit, filling), output_hidden_states=True),
            ):
                # The pooling is always computed in float32.
                tolerance = 1e-5 if exact else 1e-4
                torch.testing.assert_close(batched.logits[index], alone.logits[0], atol=tolerance, rtol=0)
                for state, batched_state in zip(
                    (*alone.hidden_states, alone.pooling_weights.unsqueeze(-1)),
                    (*batched.hidden_states, batched.pooling_weights.unsqueeze(-1)),
                    strict=True,
                ):
                    frames = min(state.shape[1], batched_state.shape[1])
                    assert not batched_state[index, frames:].any()
                    assert not state[0, frames:].any()
                    if exact:
                        tolerance = 1e-5 if state.shape[-1] == 1 else 1e-9
                        torch.testing.assert_close(
                            batched_state[index, :frames], state[0, :frames], atol=tolerance, rtol=0
                        )


@pytest.fixture(scope="module", params=VARIANTS)
def variant_name(request):
    return request.param


@pytest.fixture(scope="module")
def variant(make_model, variant_name):
    return make_model(**VARIANTS[variant_name])


@settings(max_examples=12)
@given(
    lengths=st.lists(st.integers(1, 2000), min_size=1, max_size=6),
    padding=st.sampled_from([0, 1, 7, 64, 1000]),
    filling=st.sampled_from([0.0, 3.0, float("nan"), float("inf")]),
    seed=st.integers(0, 100),
)
@example(lengths=[720, 1440], padding=0, filling=0.0, seed=0)
@example(lengths=[1, 2000, 1439, 1440, 1441], padding=3, filling=float("nan"), seed=0)
def test_tiny_models(variant, lengths, padding, filling, seed):
    """The documented tolerance holds in float32. In float64, rounding hides no errors and the tolerance is smaller."""
    clips = make_clips(lengths, seed, variant.config.num_channels)
    assert_alone_like_in_batch(variant, clips, padding, filling)
    assert_alone_like_in_batch(copy.deepcopy(variant).double(), clips, padding, filling)


def test_tiny_models_distinguish_clips(variant):
    """Otherwise the comparisons above would hold even if the mask were ignored."""
    short, long = make_clips([100, 1440], num_channels=variant.config.num_channels)
    with torch.no_grad():
        logits = torch.stack([variant(clip.unsqueeze(0)).logits for clip in (short, long, 2 * long)])
    assert logits.abs().max() > 0.2
    for one, other in ((0, 1), (1, 2)):
        assert (logits[one] - logits[other]).abs().max() > 0.01


BOUNDARIES = [1, 255, 256, 257, 63_999, 64_000]


@settings(max_examples=2)
@given(
    lengths=st.lists(st.integers(1, 64_000) | st.sampled_from(BOUNDARIES), min_size=1, max_size=6),
    seed=st.integers(0, 100),
)
@example(lengths=BOUNDARIES, seed=0)
@example(lengths=[32_000, 16_000], seed=1)
def test_full_size_model(full_size_model, lengths, seed):
    """The feature extractor pads the batches as for Trainer ("longest") and `pipeline` ("max_length"), or not."""
    clips = make_clips(lengths, seed)
    extractor = SANetFeatureExtractor()
    with torch.no_grad():
        batch = extractor(clips, padding="longest", sampling_rate=16_000, return_tensors="pt")
        assert batch["input_values"].shape == (len(lengths), max(lengths))
        batched = full_size_model(**batch).logits
        padded = full_size_model(
            **extractor(clips[:2], padding="max_length", sampling_rate=16_000, return_tensors="pt")
        ).logits
        for index, clip in enumerate(clips):
            alone = extractor(clip, padding=False, sampling_rate=16_000, return_tensors="pt")
            logits = full_size_model(alone["input_values"]).logits[0]
            assert logits.abs().max() > 0.3
            torch.testing.assert_close(batched[index], logits, atol=1e-4, rtol=0)
            if index < 2:
                torch.testing.assert_close(padded[index], logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("length", [1, 255, 256, 257, 4096])
@pytest.mark.parametrize("dtype", [torch.bool, torch.int32, torch.int64, torch.float32], ids=str)
def test_full_mask_equals_no_mask(tiny_model, length, dtype):
    clips = torch.stack(make_clips([length] * 2))
    with torch.no_grad():
        plain = tiny_model(clips)
        masked = tiny_model(clips, torch.ones(2, length, dtype=dtype))
    assert torch.equal(masked.logits, plain.logits)
    assert torch.equal(masked.pooling_weights, plain.pooling_weights)


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("full_mask", [False, True], ids=["no_mask", "full_mask"])
@pytest.mark.parametrize("length", [1600, 1601, 999])
def test_no_mask_is_used_without_padding(tiny_model, monkeypatch, full_mask, training, length):
    """This holds whether or not the length is a multiple of the strides."""
    masks = []
    original = modeling_sanet.zero_padded_frames
    monkeypatch.setattr(
        modeling_sanet, "zero_padded_frames", lambda states, mask: masks.append(mask) or original(states, mask)
    )
    clips = torch.stack(make_clips([length] * 2))
    tiny_model.train(training)(clips, torch.ones_like(clips) if full_mask else None)
    assert masks
    assert all(mask is None for mask in masks)


@pytest.mark.parametrize("length", [256, 1000])
def test_full_mask_equals_no_mask_in_training(make_model, length):
    clips = torch.stack(make_clips([length] * 2))
    results = []
    for mask in (None, torch.ones(2, length, dtype=torch.long)):
        model = make_model().train()
        loss = model(clips, mask, labels=torch.tensor([0, 1])).loss
        loss.backward()
        results.append([loss, *(parameter.grad for parameter in model.parameters()), *model.buffers()])
    for plain, masked in zip(*results, strict=True):
        assert torch.equal(masked, plain)


def test_full_size_full_mask_equals_no_mask(full_size_model, make_waveforms):
    clips = make_waveforms(2, 2560)
    with torch.no_grad():
        assert torch.equal(full_size_model(clips, torch.ones_like(clips)).logits, full_size_model(clips).logits)


def test_input_is_not_changed(tiny_model):
    batch, mask = pad(make_clips([100, 300]), 320, filling=5.0)
    copies = batch.clone(), mask.clone()
    tiny_model(batch, mask)
    assert torch.equal(batch, copies[0])
    assert torch.equal(mask, copies[1])


# Training mode: statistics of BatchNorm.


@pytest.fixture(scope="module")
def training_variant(make_model, variant_name):
    """
    Return a model in float64 with a linear head. A BatchNorm in the head would normalise over a few clips only, and
    amplify rounding errors.
    """
    return make_model(**VARIANTS[variant_name], classifier_hidden_sizes=()).double()


def train_step(model, batch: torch.Tensor, mask: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """Return logits, gradients and BatchNorm statistics by name after a forward and backward pass in training mode."""
    model = copy.deepcopy(model).train()
    output = model(batch, mask, labels=torch.arange(len(batch)) % model.config.num_labels)
    output.loss.backward()
    return (
        {"logits": output.logits.detach()}
        | {name: parameter.grad for name, parameter in model.named_parameters()}
        | dict(model.named_buffers())
    )


def assert_same_step(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    for name, tensor in expected.items():
        # Gradients depend on the pooling, which is always computed in float32. Statistics do not.
        tolerance = 1e-9 if "running" in name else 1e-5
        torch.testing.assert_close(
            actual[name], tensor, atol=tolerance, rtol=tolerance, msg=lambda message, name=name: f"{name}: {message}"
        )


@settings(max_examples=4)
@given(lengths=st.lists(st.integers(1, 1000), min_size=2, max_size=4), filling=st.sampled_from([0.0, float("nan")]))
@example(lengths=[144, 1, 720], filling=0.0)
def test_training_does_not_depend_on_amount_of_padding(training_variant, lengths, filling):
    clips = [clip.double() for clip in make_clips(lengths, num_channels=training_variant.config.num_channels)]
    expected = train_step(training_variant, *pad(clips, max(lengths)))
    for padding in (1, 500):
        assert_same_step(train_step(training_variant, *pad(clips, max(lengths) + padding, filling)), expected)


def test_training_on_padded_clips_equals_unpadded(training_variant):
    """The two clips consist of whole frames. Without a mask, BatchNorm is PyTorch's own over exactly these frames."""
    length = 2 * training_variant.config.total_stride
    clips = [clip.double() for clip in make_clips([length] * 2, num_channels=training_variant.config.num_channels)]
    expected = train_step(training_variant, torch.stack(clips), None)
    name = "sanet.layers.0.norm1.running_mean"
    assert not torch.allclose(expected[name], training_variant.get_buffer(name))
    assert_same_step(train_step(training_variant, *pad(clips, length + 300, float("nan"))), expected)


def valid_frames_and_mask(lengths: list[int], channels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return states (batch, frames, channels) with different values after each length, and a float mask."""
    generator = torch.Generator().manual_seed(0)
    frames = max(lengths)
    mask = (torch.arange(frames) < torch.tensor(lengths).unsqueeze(1)).float()
    states = torch.randn(len(lengths), frames, channels, generator=generator) * 3 + 1
    return states + 100 * (1 - mask).unsqueeze(-1), mask


def make_batch_norm(channels: int) -> SANetBatchNorm:
    norm = SANetBatchNorm(channels)
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 1.5, channels))
        norm.bias.copy_(torch.linspace(-1, 1, channels))
        norm.running_mean.copy_(torch.linspace(-1, 0, channels))
        norm.running_var.copy_(torch.linspace(1, 3, channels))
    return norm


@pytest.mark.parametrize("lengths", [[5, 3, 1], [1, 1], [7, 7], [64, 1]], ids=str)
def test_batch_norm_uses_only_valid_frames(lengths):
    norm, reference = make_batch_norm(4), nn.BatchNorm1d(4)
    reference.load_state_dict(norm.state_dict())
    states, mask = valid_frames_and_mask(lengths, 4)
    output = norm(states, mask)
    expected = reference(states[mask.bool()])
    torch.testing.assert_close(output[mask.bool()], expected)
    for name, buffer in reference.named_buffers():
        torch.testing.assert_close(norm.get_buffer(name), buffer)


def test_batch_norm_over_processes_uses_all_valid_frames(monkeypatch):
    """The two processes have different numbers of valid frames. Each sends one message per layer."""
    states, mask = valid_frames_and_mask([9, 4, 7, 1], 4)
    parts = [slice(0, 3), slice(3, 4)]
    norms = [make_batch_norm(4) for _ in parts]
    sent = []

    def run(rank: int, add_up) -> torch.Tensor:
        monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
        monkeypatch.setattr(distributed, "get_rank", lambda: rank)
        monkeypatch.setattr(batchnorm_sanet, "_add_up_over_processes", add_up)
        norms[rank].synchronize = True
        return norms[rank](states[parts[rank]], mask[parts[rank]])

    for rank in range(2):
        run(rank, lambda rows: sent.append(rows) or rows.clamp(min=1))
    assert len(sent) == 2
    output = torch.cat([run(rank, lambda rows: sum(sent)) for rank in range(2)])
    reference = make_batch_norm(4)
    expected = reference(states, mask)
    torch.testing.assert_close(output[mask.bool()], expected[mask.bool()])


@pytest.mark.parametrize("lengths", [[5, 3, 1], [7, 7], [64, 1], [1]], ids=str)
def test_batch_norm_compiled_variant_equals_eager_variant(lengths):
    """The compiled variant weights all frames instead of gathering the valid ones."""
    results = []
    for weighted in (False, True):
        norm = make_batch_norm(4)
        states, mask = valid_frames_and_mask(lengths, 4)
        states.requires_grad_()
        if weighted:
            output = norm._normalize_weighted(states.reshape(-1, 4), mask.reshape(-1, 1)).view_as(states)
        else:
            output = norm(states, mask)
        # The blocks do the same.
        output = zero_padded_frames(output, mask)
        (output * torch.linspace(0, 1, output.numel()).view_as(output)).sum().backward()
        results.append([output, states.grad, norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var])
    for gathered, weighted in zip(*results, strict=True):
        torch.testing.assert_close(weighted, gathered, atol=1e-5, rtol=1e-4)


def test_batch_norm_in_evaluation_equals_pytorch():
    norm, reference = make_batch_norm(4).eval(), nn.BatchNorm1d(4).eval()
    reference.load_state_dict(norm.state_dict())
    states, mask = valid_frames_and_mask([5, 3], 4)
    before = copy.deepcopy(norm.state_dict())
    torch.testing.assert_close(norm(states, mask), reference(states.transpose(1, 2)).transpose(1, 2))
    for name, value in norm.state_dict().items():
        assert torch.equal(value, before[name])


# Helpers.


@pytest.mark.parametrize(
    "mask, stride, expected",
    [
        ([1, 1, 1, 1, 1, 0, 0, 0], 4, [1, 1]),
        ([1, 1, 1, 1, 0, 0, 0, 0], 4, [1, 0]),
        ([1, 0, 0, 0, 0, 0], 2, [1, 0, 0]),
        ([1, 1, 0], 1, [1, 1, 0]),
    ],
    ids=str,
)
def test_downsample_mask(mask, stride, expected):
    assert downsample_mask(torch.tensor([mask], dtype=torch.float32), stride).tolist() == [expected]


def test_downsample_without_mask():
    assert downsample_mask(None, 4) is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("length", [3, 70_000])
def test_half_precision_means_over_many_frames(make_model, dtype, length):
    """A sum over more than 65,504 frames overflows float16, and a single frame of so many is lost in the sum."""
    config_kwargs = {"conv_dim": (8,), "conv_kernel": (3,), "conv_stride": (1,)}
    model = make_model(**config_kwargs, attention_after=(), attention_dim=(), classifier_hidden_sizes=())
    clip = make_clips([length])[0] + 0.5
    with torch.no_grad():
        expected = model(clip.unsqueeze(0)).logits
        model.to(dtype)
        plain, masked = model(clip.unsqueeze(0)).logits, model(*pad([clip], 70_010)).logits
    tolerance = {torch.float16: 5e-3, torch.bfloat16: 4e-2}[dtype]
    torch.testing.assert_close(plain.float(), expected, atol=tolerance, rtol=0)
    torch.testing.assert_close(masked.float(), expected, atol=tolerance, rtol=0)
    torch.testing.assert_close(masked, plain, atol=tolerance / 4, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_mask_sums_are_exact_in_every_number_format(tiny_model, dtype):
    """Half precision cannot represent 5001."""
    _, mask = tiny_model.to(dtype).sanet._prepare_input(*pad(make_clips([5001]), 7999))
    assert mask.shape == (1, 7999)
    assert mask.sum() == 5001


# Errors.


def test_too_long_clip_names_the_limit_in_samples(full_size_model):
    with pytest.raises(ValueError) as error:
        full_size_model(torch.zeros(1, 64_001))
    for part in ("64001 samples", "64000", "max_position_embeddings=500", "window"):
        assert part in str(error.value)


def test_length_limit_includes_padding(tiny_model):
    with pytest.raises(ValueError, match="8001 samples"):
        tiny_model(*pad(make_clips([100]), 8001))


def test_without_attention_there_is_no_length_limit(make_model):
    model = make_model(attention_after=(), attention_dim=())
    with torch.no_grad():
        assert model(torch.zeros(1, 100_000)).logits.isfinite().all()


@pytest.mark.parametrize(
    "num_channels, shape",
    [(1, (100,)), (1, ()), (1, (1, 0)), (1, (2, 2, 100)), (1, (1, 1, 1, 100)), (2, (2, 100)), (2, (1, 3, 100))],
    ids=str,
)
def test_wrong_input_shapes_are_refused(make_model, num_channels, shape):
    expected = r"\(batch, samples\)" if num_channels == 1 else r"\(batch, 2, samples\)"
    with pytest.raises(ValueError, match=f"input_values must have shape {expected}"):
        make_model(num_channels=num_channels)(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(2, 99), (1, 100), (2, 101), (2, 1, 100), (100,), (2, 25)], ids=str)
def test_wrong_mask_shapes_are_refused(tiny_model, shape):
    with pytest.raises(ValueError, match=r"attention_mask must have one entry per sample: shape \(2, 100\)"):
        tiny_model(torch.zeros(2, 100), torch.ones(shape))


def test_base_model_ignores_padding(tiny_model):
    assert isinstance(tiny_model.sanet, SANetModel)
    batch, mask = pad(make_clips([100, 300]), 320, filling=float("nan"))
    with torch.no_grad():
        alone = tiny_model.sanet(batch[:1, :100]).pooler_output
        torch.testing.assert_close(tiny_model.sanet(batch, mask).pooler_output[:1], alone, atol=2e-5, rtol=0)
