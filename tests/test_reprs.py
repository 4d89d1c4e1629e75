"""What values show of themselves, in notebooks and in terminals."""

from __future__ import annotations

from html.parser import HTMLParser

import numpy as np
import pytest

import minires as mr
from minires import markup, nn
from minires.gradcheck import check, check_adjoint, taylor
from minires.study.results import StudyResults

OPEN = {"img", "meta", "br"}  # tags without an end


class Page(HTMLParser):
    """HTML taken apart: the tags must be closed in order."""

    def __init__(self, html):
        super().__init__()
        self.stack, self.tags, self.texts = [], [], []
        self.feed(html)
        assert not self.stack

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in OPEN:
            self.stack.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def test_a_tensor_shows_what_it_is_and_its_values():
    x = mr.tensor([[1.5, -2.0, 1e-7]], requires_grad=True)
    page = Page(x._repr_html_())
    facts, cells = page.texts[:7:2], page.texts[7:]
    assert facts == ["Tensor (1, 3)", "float32", "cpu", "requires_grad=True"]
    assert cells == ["1.5", "-2", "1e-07"]
    assert "grad_fn=Exp" in "".join(Page(x.exp()._repr_html_()).texts)
    assert Page(mr.tensor(3)._repr_html_()).texts[-1] == "3"
    assert Page(mr.tensor([True, False])._repr_html_()).texts[-2:] == ["True", "False"]
    assert Page(mr.ones(0, 3)._repr_html_()).tags.count("table") == 0


def test_large_tensors_are_abbreviated():
    page = Page(mr.arange(12000.0).reshape(100, 120)._repr_html_())
    assert page.tags.count("tr") == 11
    assert page.tags.count("td") == 121
    assert page.texts[-1] == "1.2e+04"
    many = mr.tensor(np.array([np.nan, 1, 2, np.inf] * 6).reshape(2, 3, 4))._repr_html_()
    text = "".join(Page(many).texts)
    assert "from 1 to 2 · mean 1.5 · 12 NaN or infinite" in text
    assert len(mr.zeros(50, 50, 50)._repr_html_()) < 2000


def test_a_network_unfolds_with_counts():
    net = mr.models.cifar_resnet(8)
    net.fc.requires_grad_(False)
    page = Page(net._repr_html_())
    text = "".join(page.texts)
    assert text.startswith("CifarNet · 75,290 parameters · training mode · 650 frozen")
    assert "layer2 Sequential · 13,952 parameters" in text
    assert page.tags.count("details") == 1 + 3 + 3  # the network, its stages, their blocks
    assert "Linear · 3 parameters · evaluation mode" in Page(
        nn.Linear(2, 1).eval()._repr_html_()
    ).texts[0] + "".join(Page(nn.Linear(2, 1).eval()._repr_html_()).texts)
    lazy = nn.Sequential(nn.LazyLinear(3))
    assert "known after the first input" in "".join(Page(lazy._repr_html_()).texts)
    assert Page(lazy[0].weight._repr_html_()).texts == ["<UninitializedParameter>"]


def test_names_are_escaped():
    net = nn.Sequential()
    net.add_module("<script>", nn.Sequential(nn.ReLU()))
    assert "<script>" in Page(net._repr_html_()).texts
    assert "script" not in Page(net._repr_html_()).tags
    assert markup.table(["<b>"], [["&"]], left=0).count("<b>") == 0


def cubed(x):
    return x * x * x


def test_gradient_checks_show_tables_and_figures():
    x = mr.tensor([0.5, -1.5], dtype="float64", requires_grad=True)
    report = check(cubed, [x])
    assert repr(report) == str(report)
    page = Page(report._repr_html_())
    assert page.texts[0] == "✓ cubed on numba: ok"
    assert page.tags.count("tr") == 2
    slopes = taylor(cubed, x)
    assert repr(slopes) == str(slopes)
    assert "img" in Page(slopes._repr_html_()).tags
    assert slopes.figure.axes[0].get_xscale() == "log"
    adjoint = check_adjoint(lambda x: x.sum(0), mr.ones(2, 3, requires_grad=True))
    assert repr(adjoint) == str(adjoint)
    assert Page(adjoint._repr_html_()).texts[0].startswith("✓ ")
    linear = taylor(lambda x: x * 2, x)
    assert linear.exact
    assert "img" not in Page(linear._repr_html_()).tags


@pytest.fixture
def study(tmp_path):
    spread = {"train_error": 0.1, "test_error": 0.2, "train_loss": 0.3, "test_loss": 0.4}
    row = {"epoch": 1, "lr": 0.1, "seconds": 1.0, **spread}
    runs = [
        {"kind": kind, "depth": 8, "seed": 0, "finished": True, "epochs": [row], "seconds": 1.0,
         "parameters": 1234, "multiply_adds": 10**6, "layers": ["conv1", "fc"],
         "gradient_norms": {"start": [1.0, 2.0], "end": [1.0, 3.0]}, **spread}
        for kind in ("plain", "residual")
    ]  # fmt: skip
    config = {
        "dataset": "digits", "depths": [8, 20], "kinds": ["plain", "residual"], "seeds": [0],
        "shortcut": "A", "train_size": 100, "test_size": 50, "image_shape": [1, 8, 8],
        "protocol": {"name": "quick", "epochs": 1},
    }  # fmt: skip
    return StudyResults({"config": config, "runs": runs}, tmp_path)


def test_a_study_is_its_mapping_and_shows_itself(study):
    assert isinstance(study, dict)
    assert study == {"config": study["config"], "runs": study["runs"]}
    text = repr(study)
    assert "1,234" in text
    assert "Not finished: plain-20 (not started), residual-20 (not started)." in text
    assert text.endswith(f"Report: {study.report}")
    page = Page(study._repr_html_())
    assert page.tags.count("img") == 3
    assert page.tags.count("tr") == 3
    assert page.texts[-1] == str(study.folder / "report.html")
