"""Wrong tasks: what is said of each, in one sentence with the mend."""

import threading
from collections import UserDict
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quant_core.network.trace import trace
from quant_core.util.errors import BitfrontError
from search import tasks
from search.config.evaluation import EvaluateSection
from search.evaluation.evaluator import Evaluator
from search.evaluation.measure import first_inputs
from search.tasks.task import Task

X, Y = torch.randn(24, 4, generator=torch.Generator().manual_seed(0)), torch.arange(24) % 3


class Net(nn.Module):
    """Returns logits [N, 3] beside its hidden state."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"hidden": x, "scores": self.head(x)}


class EndsEarly:
    """Says that it has more batches than it gives."""

    def __len__(self) -> int:
        return 5

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        yield {"x": X, "labels": Y}


class Fails(EndsEarly):
    """Fails at its second batch."""

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        yield {"x": X, "labels": Y}
        raise OSError("the disk is gone")


class Locked(Net):
    """Holds what cannot be copied, and is in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


def task(batch: Any = None, /, **changes: Any) -> Task:
    """Return a task of named parts that is right, but for the changes; `batch` is the only one of every split."""
    batches = [{"x": X, "labels": Y} if batch is None else batch]
    right: dict[str, Any] = {"metrics": "accuracy", "output": "scores"} | dict.fromkeys(("train", "calib", "valid", "test"), batches)
    return Task(**({"model": Net()} | right | changes))


def measured(wrong: Task) -> dict[str, float]:
    """Return the figures of the float network, as a sweep measures them first."""
    checked = tasks.build("mine", wrong, {})
    return Evaluator(checked, trace(checked.model, first_inputs(checked)), EvaluateSection()).float_metrics()


def gives(value: object) -> Callable[..., object]:
    """Return a metric that gives the value."""

    def figure(_outputs: Tensor, _targets: Tensor) -> object:
        return value

    return figure


def weighted(weights: Tensor) -> dict[str, Tensor]:
    return {"x": X, "labels": Y, "sample_weight": weights}


def test_the_right_task_is_measured() -> None:
    assert set(measured(task())) == {"accuracy", "error", "loss"}


def test_mappings_beside_their_labels_need_no_metrics() -> None:
    """As Hugging Face's tokenizers give them: torch does not look into such a mapping by itself."""
    model = Net()
    plain, foreign = (tasks.build("mine", task((kind(x=X), Y), metrics=(), model=model), {}) for kind in (dict, UserDict))
    assert measured(plain) == measured(foreign)
    assert type(next(iter(foreign.valid))[0]) is dict
    assert type(plain.valid) is list


WRONG: dict[str, tuple[Callable[[], Task], str]] = {
    "no labels": (lambda: task({"x": X}), r"'accuracy' needs labels, .* are a NoneType; name the part .* batch='NAME'"),
    "labels elsewhere": (
        lambda: task(batch="klass"),
        r"batch 1 of train has no part 'klass' with the parts x, labels; name .* batch='NAME'",
    ),
    "float labels": (
        lambda: task({"x": X, "labels": Y.float()}),
        r"whole-number labels, and those of batch 1 are torch.float32; convert them: .long\(\), or, .* \.argmax\(dim=1\)",
    ),
    "text labels": (lambda: task({"x": X, "labels": ["cat"] * 24}), r"needs labels, and the targets of batch 1 are a list; name the part"),
    "labels too large": (
        lambda: task({"x": X, "labels": Y + 1}),
        r"labels from 1 to 3 in batch 1, and the network has 3 classes .*give labels",
    ),
    "labels below 0": (lambda: task({"x": X, "labels": Y - 1}), r"labels from -1 to 1 .*give labels from 0 to 2, and -100 where none"),
    "labels of another length": (
        lambda: task({"x": X, "labels": Y[:20]}),
        r"outputs of shape \(24, 3\), labels of shape \(20,\).*give such",
    ),
    "labels of another shape": (
        lambda: task({"x": X, "labels": Y.view(4, 6)}),
        r"outputs of shape \(24, 3\), labels of shape \(4, 6\).*give such labels, or name",
    ),
    "all labels -100": (lambda: task({"x": X, "labels": Y * 0 - 100}), r"'accuracy' is nan over the 1 batches .*; a number is needed"),
    "no such output": (lambda: task(output="logits"), r"outputs have no part 'logits': a dict with the parts hidden, scores; name one"),
    "output that is no tensor": (
        lambda: task(output=lambda _outputs: "x"),
        r"output function gave a str; a tensor is needed: Task\(..., output",
    ),
    "no tensor among the outputs": (lambda: task(output="", model=Silent()), r"the network gave a list.*; a tensor is needed"),
    "batch without tensors": (lambda: task({"x": [1.0], "labels": [0]}), r"batch 1 of train holds no tensor for the network .*collate to"),
    "batch of text": (lambda: task("words"), r"batch 1 of train is a str; give \(inputs, targets\), or say how to divide it"),
    "batch of three": (lambda: task((X, X, Y)), r"batch 1 of train is a tuple of Tensor, Tensor, Tensor; give \(inputs, targets\), or say"),
    "batch function without targets": (
        lambda: task(batch=lambda batch: batch["x"]),
        r"batch function gave a Tensor .*\(inputs, targets\) or",
    ),
    "loader that ends early": (lambda: task(valid=EndsEarly()), r"valid says that it has 5 batches and ended after 1; give all"),
    "loader that fails": (lambda: task(valid=Fails()), r"valid.* fails at batch 2 with OSError: the disk is gone\. Mend it, or leave such"),
    "split of another width": (
        lambda: task((X, Y), valid=[(X, Y), (X[:, :3], Y)]),
        r"^float network on valid: RuntimeError: mat1 and mat2 .*\. Give batches that the network takes in every split\.$",
    ),
    "sparse inputs": (lambda: task((X.to_sparse(), Y)), r"its train gives sparse tensors.*; give dense ones: x\.to_dense\(\)"),
    "network that cannot be copied": (lambda: task(model=Locked()), r"^model\.lock is a lock, which cannot be copied .*; make it where"),
    "loader that is empty": (lambda: task(valid=[]), r"its valid is empty; every one of train, calib, valid, test needs"),
    "loader that is read once": (lambda: task(valid=iter([(X, Y)])), r"its valid is a list_iterator; give what can be read again"),
    "network that takes other names": (
        lambda: task({"y": Y, "image": X}),
        r"the network fails on the first example of valid with TypeError",
    ),
    "weights of another length": (
        lambda: task(weighted(torch.ones(7))),
        r"the sample weights of batch 1 have the shape \(7,\), its targets",
    ),
    "weights below 0": (
        lambda: task(weighted(-torch.ones(24))),
        r"sample weights of batch 1 of train are a Tensor.*give a tensor \[N\], none",
    ),
    "weights without metrics": (
        lambda: task(weighted(torch.ones(24)), metrics=(), batch="labels"),
        r"its train has sample weights, which the score does not take; give metrics",
    ),
    "metric that is unknown": (lambda: task(metrics="acuracy"), r"unknown metric 'acuracy'; known: .* Did you mean 'accuracy'\?"),
    "metric that is a number": (lambda: task(metrics=[3]), r"metric 3 is a int; give a name of accuracy, .*, or a torchmetrics.Metric"),
    "metric that is there twice": (lambda: task(metrics=["f1", "f1"]), r"metrics named f1, f1 given; every name once"),
    "metric that gives text": (lambda: task(metrics=gives("good")), r"metric 'figure' gave a str; one number .* is needed: return a float"),
    "metric that gives nothing": (lambda: task(metrics=gives(None)), r"metric 'figure' gave a NoneType; one number for the whole set"),
    "metric that gives many": (lambda: task(metrics=gives(X)), r"'figure' gave a tensor of shape \(24, 4\); one number for the whole set"),
    "metric that gives NaN": (lambda: task(metrics=gives(float("nan"))), r"metric 'figure' is nan over the 1 batches of the set; a number"),
    "metric above its best": (lambda: task(metrics=gives(31.5)), r"'figure' is 31.5, above its best value 1; say what is best"),
    "metric that fails": (lambda: task(metrics=lambda o, t: o @ t), r"failed with RuntimeError: .*; choose another metric, or give it"),
    "metric of values": (lambda: task(metrics="spearman"), r"'spearman' needs outputs and targets of one shape; batch 1 has .* Reshape"),
    "constant outputs": (
        lambda: task({"x": X * 0, "labels": X}, metrics="pearson", output="hidden"),
        r"Constant outputs have no correlation",
    ),
    "range of PSNR in words": (lambda: task(metrics="psnr:wide"), r"'psnr:wide' given; write the range of the values, as in psnr:255"),
    "top 0": (lambda: task(metrics="accuracy:0"), r"'accuracy:0' given; write how many of the largest logits count"),
    "loss that gives text": (lambda: task(loss=gives("low")), r"the task's loss failed with ValueError: .*; give Task a loss"),
    "ambiguous axis": (lambda: task({"x": X[:6].view(2, 3, 4), "labels": Y[:6].view(2, 3)}), r"axis 1 or 2; say which: .*class_axis"),
    "axis that outputs lack": (
        lambda: task(class_axis=2),
        r"class_axis = 2 is no axis of classes: outputs have the shape \(1, 3\), axis 0 counts examples; give 1\.$",
    ),
    "axis of examples": (lambda: task(metrics="kld", class_axis=0), r"class_axis = 0 is no axis of classes: .*give 1\.$"),
    "axis of values": (lambda: task(metrics="mae", class_axis=-2), r"class_axis = -2 is no axis of classes: .*give 1\.$"),
    "axis in words": (lambda: task(class_axis="last"), r"class_axis = 'last' is no axis of classes: .*give 1\.$"),
    "axis without metrics": (
        lambda: task((X, Y), metrics=(), class_axis=3),
        r"class_axis = 3 is no axis of classes: outputs have the shape \(1, 3\), .*give 1\.$",
    ),
    "axis of single values": (
        lambda: task((X, X[:, 0]), metrics="mae", output=lambda outputs: outputs["scores"][:, 0], class_axis=1),
        r"class_axis = 1 is no axis of classes: outputs have the shape \(1,\), .*; leave class_axis out",
    ),
    "graph without an axis of examples": (
        lambda: task(({"x": X, "edges": torch.stack([torch.arange(24), torch.arange(24).flip(0)])}, Y), model=Graph()),
        r"fails on the first example .* with IndexError: .*, though it takes the whole batch; let it .* an axis of examples, as",
    ),
    "network that differentiates itself": (
        lambda: task(model=Differentiates()),
        r"fails .*: it differentiates itself; write that part .* under torch.inference_mode\(False\) and torch.enable_grad\(\)",
    ),
    "empty batch behind others": (
        lambda: task(valid=[{"x": X, "labels": Y}, {"x": X[:0], "labels": Y[:0]}]),
        r"batch 2 of valid is empty; leave it out",
    ),
    "average precision of logits": (lambda: task(metrics="map"), r"metric 'map' needs (pycocotools|a list of dicts).*"),
}


class Writes(Net):
    """Writes into its input."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return super().forward(x.mul_(0.5))


@pytest.mark.parametrize("metrics", ["accuracy", ()])
def test_data_stay_as_they_are_where_a_network_writes_into_them(metrics: Any) -> None:
    model, data = Writes(), X.clone()
    figures = [measured(task((data, Y), model=model, metrics=metrics)) for _ in range(2)]
    assert torch.equal(data, X)
    assert figures[0] == figures[1] == measured(task((X * 0.5, Y), model=_plain(model), metrics=metrics))
    assert vars(model).keys() == vars(Net()).keys()


def _plain(model: nn.Module) -> nn.Module:
    plain = Net()
    plain.load_state_dict(model.state_dict())
    return plain


class Shared(nn.Module):
    """Takes a table that all examples share, beside theirs."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor, table: Tensor) -> dict[str, Tensor]:
        return {"scores": self.head(x + table.sum(dim=0))}


def test_a_tensor_that_all_examples_share_is_not_cut() -> None:
    model, table = Shared(), torch.randn(5, 4)
    whole = [({"x": X, "table": table}, Y)]
    parts = [({"x": X[:16], "table": table}, Y[:16]), ({"x": X[16:], "table": table}, Y[16:])]
    figures = [measured(task(model=model, **dict.fromkeys(("train", "calib", "valid", "test"), data))) for data in (whole, parts)]
    assert figures[0] == pytest.approx(figures[1])


class Graph(Net):
    """Takes nodes [N, F] and edges [2, E]."""

    def forward(self, x: Tensor, edges: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return super().forward(x.index_add(0, edges[1], x[edges[0]]))


class Differentiates(Net):
    """Returns the gradient of what its head says."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        with torch.enable_grad():
            x = x.clone().requires_grad_()
            return {"scores": torch.autograd.grad(self.head(x).sum(), x)[0][:, :3]}


class Silent(Net):
    """Returns no tensor."""

    def forward(self, x: Tensor) -> Any:
        return [str(self.head(x).shape)]


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_task_is_told_in_one_sentence(case: str) -> None:
    make, message = WRONG[case]
    with pytest.raises(BitfrontError, match=message) as raised:
        measured(make())
    text = str(raised.value)
    assert "\n" not in text
    assert len(text) < 420


def test_there_are_twenty_wrong_tasks_and_more() -> None:
    assert len(WRONG) >= 20
