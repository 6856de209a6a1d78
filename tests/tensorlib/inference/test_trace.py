"""What a trace holds, and what it refuses."""

import numpy as np
import pytest

import tensorlib
from tensorlib import nn
from tensorlib.inference.capture import Example, capture
from tensorlib.inference.templates import Batch, Differs, Pack, Ref, decode, encode, merge
from tensorlib.inference.trace import Untraceable, trace
from tensorlib.nn import functional as F


def names(model, *args):
    return [call.name for call in trace(model, args, {})[0].calls]


class TestTemplates:
    def test_round_trip(self):
        x = tensorlib.ones(2)
        value = ((x, [1, 2.0]), {"a": slice(None, x), "b": None}, tensorlib.Size([1, 2]))
        template = encode(value, lambda t: 7)
        again = decode(template, {7: x}, 0)
        assert again[0][0] is x
        assert again[1]["a"].stop is x
        assert type(again[2]) is tensorlib.Size
        assert again[0][1] == [1, 2.0]

    def test_batch_expressions(self):
        made = merge(Pack(tuple, (8, 3)), Pack(tuple, (4, 3)), 2, 1)
        assert made.items == (Batch(4, 0), 3)
        assert decode(made, {}, 5) == (20, 3)
        assert str(Batch(2, 1)) == "2n+1"

    @pytest.mark.parametrize(
        ("a", "b"),
        [(1.0, 2.0), (3, 4.0), ("x", "y"), (1, 2), (np.zeros(2), np.ones(2)), (Ref(1), Ref(2))],
    )
    def test_differences(self, a, b):
        with pytest.raises(Differs):
            merge(a, b, 2, 1)


class TestRecording:
    def test_names_of_operations_whatever_they_are_called_by(self):
        relu = F.relu

        def model(x):
            y = relu(x + 1)
            y += x
            y.mul_(2.0)
            return tensorlib.cat([y, -x], dim=1)[:, 0]

        found = names(model, tensorlib.randn(3, 2))
        assert found == ["add", "relu", "add_", "mul_", "neg", "cat", "getitem"]

    def test_changes_in_place_and_shared_memory(self):
        def model(x):
            y = x * 2
            view = y.flatten()
            view.add_(1)
            return y

        found, _ = trace(model, (tensorlib.randn(3, 2),), {})
        last = found.calls[-1]
        assert len(last.changed) == 1
        memories = [found.values[call.outputs()[0]].memory for call in found.calls]
        assert memories[0] == memories[1] == memories[2]

    def test_line_and_module(self):
        model = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
        found, _ = trace(model, (tensorlib.randn(1, 3),), {})
        assert [call.module for call in found.calls] == ["0", "1"]
        assert "test_trace.py" in found.calls[0].where

    def test_attention_is_recorded_in_parts(self):
        model = nn.MultiheadAttention(8, 2).eval()
        x = tensorlib.randn(3, 2, 8)
        found = names(lambda x: model(x, x, x, need_weights=False)[0], x)
        assert "linear" in found
        assert "multi_head_attention_forward" not in found

    def test_attention_with_masks_is_one_operation(self):
        model = nn.MultiheadAttention(8, 2).eval()
        x, mask = tensorlib.randn(3, 2, 8), tensorlib.zeros(2, 3, dtype=tensorlib.bool)
        found = names(lambda x, mask: model(x, x, x, key_padding_mask=mask)[0], x, mask)
        assert found == ["multi_head_attention_forward"]

    def test_an_operation_that_raised_is_none(self):
        def model(x):
            try:
                x.view(7, 7)
            except RuntimeError:
                return x * 2

        assert names(model, tensorlib.randn(3)) == ["mul"]

    def test_the_profile_and_the_slot_come_back(self):
        slot = tensorlib.Tensor.__dict__["array"]

        def model(x):
            raise KeyError("mine")

        with pytest.raises(KeyError, match="mine"):
            trace(model, (tensorlib.randn(3),), {})
        assert tensorlib.Tensor.__dict__["array"] is slot


@pytest.mark.parametrize(
    ("model", "what"),
    [
        (lambda x: x if x.sum() > 0 else -x, r"bool\(\)"),
        (lambda x: x * float(x.mean()), r"real\(\)"),
        (lambda x: x * x.mean().item(), r"item\(\)"),
        (lambda x: x[: int(x.argmax())], r"integer\(\)"),
        (lambda x: tensorlib.tensor(x.tolist()), r"tolist\(\)"),
        (lambda x: tensorlib.from_numpy(x.numpy() + 1), r"numpy\(\)"),
        (lambda x: tensorlib.from_numpy(np.sin(np.asarray(x))), r"array\(\)"),
        (lambda x: x * float(x.array.mean()), r"\.array"),
        (lambda x: tensorlib.from_numpy(np.from_dlpack(x) * 2), r"exported\w*\(\)"),
        (lambda x: x * (1 if 0.5 in x else 2), r"contains\(\)"),
        (lambda x: x + tensorlib.rand(1), "random"),
        (lambda x: x if tensorlib.equal(x, x) else -x, r"equal\(\)"),
        (lambda x: [-x for v in x.flatten() if v > 0], r"bool\(\)"),
    ],
)
def test_refused(model, what):
    with pytest.raises(Untraceable, match=what) as caught:
        trace(model, (tensorlib.randn(3, 2),), {})
    assert "test_trace.py" in str(caught.value)


def test_numbers_of_tensors_that_do_not_depend_on_the_input_are_fine():
    scale = tensorlib.tensor(2.0)

    def model(x):
        return x * scale.item() if scale > 1 else x

    assert names(model, tensorlib.randn(3)) == ["gt", "mul"]


class TestCapture:
    def graph(self, model, x, dim=0):
        return capture(model, Example.of((x,), {}, dim))

    def test_sizes_follow_the_batch(self):
        def model(x):
            return x.view(x.shape[0] * 2, -1).reshape(len(x), 6)

        graph, runs, why = self.graph(model, tensorlib.randn(4, 3, 2))
        assert not why
        assert [run.size for run in runs] == [2, 1]
        assert graph.values[graph.calls[0].outputs()[0]].shape == (Batch(2), 3)

    def test_an_example_of_one(self):
        graph, runs, why = self.graph(nn.Linear(3, 2), tensorlib.randn(1, 3))
        assert graph.batched
        assert [run.size for run in runs] == [2, 1]
        assert not why

    @pytest.mark.parametrize(
        ("model", "why"),
        [
            (lambda x: x.view(4, -1), "another batch size fails"),
            (lambda x: x.softmax(0), "depends on the other examples"),
            (lambda x: x - x.mean(0), "depends on the other examples"),
            (lambda x: x.sum(), "a result of shape"),
            (lambda x: list(x), "unbind"),
            (lambda x: x / x.shape[0], "0.5|2"),
        ],
    )
    def test_one_shape_alone(self, model, why):
        graph, _, found = self.graph(model, tensorlib.randn(4, 3))
        assert not graph.batched
        assert found

    def test_data_that_decides_without_a_call(self):
        class Sneaky(nn.Module):
            def forward(self, x):
                self.calls = getattr(self, "calls", 0) + 1
                return x + self.calls

        with pytest.raises(Untraceable, match="argument 'other' of add"):
            self.graph(Sneaky(), tensorlib.randn(4, 3))

    def test_random(self):
        with pytest.raises(Untraceable, match="random"):
            self.graph(nn.Dropout(), tensorlib.randn(4, 3))
