"""Whole networks against PyTorch: vision, language, sequences, with sizes that change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch_models import check_module

from models.recipe import export
from naru.compiler import choose_target
from naru.errors import InputError
from naru.frontend.torch_program import read_torch
from naru.ir.graph import Graph, toposort
from naru.pipeline import lower


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def stirred(module: nn.Module) -> nn.Module:
    """In eval mode, with batch norms that have seen something."""
    for m in module.modules():
        if isinstance(m, nn.BatchNorm2d | nn.BatchNorm1d | nn.BatchNorm3d):
            assert m.running_mean is not None
            assert m.running_var is not None
            m.running_mean.uniform_(-0.5, 0.5)
            m.running_var.uniform_(0.5, 1.5)
    return module.eval()


def some(names: Iterable[str], *quick: str) -> list[Any]:
    """Names of cases; those that are not quick, or that others stand for, are slow tests."""
    return [n if n in quick else pytest.param(n, marks=pytest.mark.slow) for n in names]


# --- vision ---------------------------------------------------------------------------------------


class Residual(nn.Module):
    def __init__(self, c: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.down = nn.Sequential(nn.Conv2d(c, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += self.down(x)
        return self.relu(y)


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 7, 2, 3, bias=False), nn.BatchNorm2d(8),
                                  nn.ReLU(), nn.MaxPool2d(3, 2, 1))  # fmt: skip
        self.layers = nn.Sequential(Residual(8, 8, 1), Residual(8, 16, 2))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.flatten(self.pool(self.layers(self.stem(x))), 1))


class SqueezeExcite(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(c, 4, 1), nn.Conv2d(4, c, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = F.adaptive_avg_pool2d(x, 1)
        return x * torch.sigmoid(self.fc2(F.silu(self.fc1(scale))))


class Inverted(nn.Module):
    """A block of MobileNet and EfficientNet."""

    def __init__(self, c: int, act: type[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(c, 3 * c, 1, bias=False), nn.BatchNorm2d(3 * c), act(),
            nn.Conv2d(3 * c, 3 * c, 3, padding=1, groups=3 * c, bias=False),
            nn.BatchNorm2d(3 * c), act(), SqueezeExcite(3 * c),
            nn.Conv2d(3 * c, c, 1, bias=False), nn.BatchNorm2d(c), nn.Dropout(0.2),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layers(x)


class ConvNeXtBlock(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.dw = nn.Conv2d(c, c, 7, padding=3, groups=c)
        self.norm = nn.LayerNorm(c, eps=1e-6)
        self.up, self.down = nn.Linear(c, 4 * c), nn.Linear(4 * c, c)
        self.gamma = nn.Parameter(torch.full((c,), 0.1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.dw(x).permute(0, 2, 3, 1))
        y = self.gamma * self.down(F.gelu(self.up(y)))
        return x + y.permute(0, 3, 1, 2)


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
        self.norm = nn.GroupNorm(4, 16)
        self.up = nn.ConvTranspose2d(16, 8, 2, 2)
        self.c = nn.Conv2d(16, 4, 3, padding=1)
        self.smooth = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = F.relu(self.a(x))
        b = F.leaky_relu(self.norm(self.b(F.max_pool2d(a, 2))))
        return self.smooth(self.c(torch.cat([self.up(b), a], 1)))


class ViT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 32, 4, 4)
        self.cls = nn.Parameter(torch.randn(1, 1, 32))
        self.pos = nn.Parameter(torch.randn(1, 17, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 64, activation="gelu", batch_first=True,
                                           norm_first=True)  # fmt: skip
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1) + self.pos
        return self.head(self.encoder(x)[:, 0])


BATCH = {"x": {0: "batch"}}
VISION: dict[str, tuple[Any, tuple[int, ...]]] = {
    "resnet": (ResNet, (2, 3, 32, 32)),
    "mobilenet": (lambda: nn.Sequential(Inverted(8, nn.Hardswish)), (2, 8, 12, 12)),
    "efficientnet": (lambda: nn.Sequential(Inverted(8, nn.SiLU), Inverted(8, nn.ReLU6)),
                     (2, 8, 10, 10)),
    "convnext": (lambda: nn.Sequential(ConvNeXtBlock(8), ConvNeXtBlock(8)), (2, 8, 10, 10)),
    "unet": (UNet, (2, 3, 16, 16)),
    "vit": (ViT, (2, 3, 16, 16)),
}  # fmt: skip


@pytest.mark.parametrize("name", some(VISION, "resnet", "unet", "vit"))
def test_vision(name: str) -> None:
    make, shape = VISION[name]
    model = stirred(make())
    (key,) = [p for p in ("x", "input") if p in model.forward.__code__.co_varnames][:1]
    other = torch.randn(5, *shape[1:])
    check_module(model, (torch.randn(shape),), (other,), dynamic={key: {0: "batch"}}, scale=5)


def test_convolutions_over_images_of_any_size() -> None:
    model = stirred(nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
        nn.Upsample(scale_factor=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2),
    ))  # fmt: skip
    check_module(model, (torch.randn(2, 3, 16, 20),), (torch.randn(1, 3, 33, 24),),
                 dynamic={"input": {0: "batch", 2: "height", 3: "width"}})  # fmt: skip


def test_conditions_on_sizes() -> None:
    class Fours(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.view(x.shape[0], x.shape[1] // 4, 4).sum(1)

    model = check_module(Fours().eval(), (torch.randn(2, 12),), (torch.randn(3, 8),),
                         dynamic=({0: "batch", 1: "length"},))  # fmt: skip
    with pytest.raises(InputError, match="length"):
        model(np.zeros((2, 10), np.float32))


def test_multiples_of_sizes() -> None:
    class Rows(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> Any:
            return x.reshape(-1, 4).sum(1) + y.reshape(-1, 4)[:, 0], x * x.shape[0]

    fours = 4 * torch.export.Dim("n")
    model = check_module(
        Rows().eval(),
        (torch.randn(12), torch.randn(12)),
        (torch.randn(20), torch.randn(20)),
        dynamic={"x": {0: fours}, "y": {0: fours}},
    )
    with pytest.raises(InputError, match=r"x_0 % 4 == 0"):
        model(np.zeros(19, np.float32), np.zeros(19, np.float32))


def test_positions_in_sizes_that_change() -> None:
    """Two index tensors: positions in both axes seen as one, times a size that is not known."""

    class At(nn.Module):
        def forward(self, x: torch.Tensor, m: torch.Tensor) -> torch.Tensor:
            rows, columns = torch.arange(x.shape[0]), torch.arange(x.shape[1])
            seen = m[rows[:, None, None], columns[None, None]]
            return torch.where(seen & (columns[:, None] >= 0), x[:, None], -1.0)

    args = torch.randn(3, 20), torch.randn(3, 20) > 0
    others = torch.randn(2, 37), torch.randn(2, 37) > 0
    dims = {0: "batch", 1: "tokens"}
    check_module(At().eval(), args, others, dynamic=(dims, dims))


# --- sequences ------------------------------------------------------------------------------------


class Tagger(nn.Module):
    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.embed, self.layer, self.out = nn.Embedding(20, 6), layer, nn.Linear(width, 3)

    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, Any]:
        y, state = self.layer(self.embed(ids))
        return self.out(y), state


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("both", [False, True])
def test_recurrent(kind: Any, both: bool) -> None:
    layer = kind(6, 5, num_layers=2, bidirectional=both, batch_first=both, bias=not both)
    model = Tagger(layer, 10 if both else 5).eval()
    first, other = torch.randint(0, 20, (3, 7)), torch.randint(0, 20, (4, 9))
    check_module(model, (first,), (other,), dynamic={"ids": {0: "a", 1: "b"}})


def test_recurrent_from_a_state() -> None:
    class Step(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.cell = nn.LSTM(4, 20), nn.GRUCell(20, 6)
            self.relu = nn.RNN(4, 3, nonlinearity="relu")

        def forward(self, x: Any, h: Any, c: Any, g: Any) -> Any:
            y, (h, c) = self.lstm(x, (h, c))
            return {"y": y, "h": h, "c": c, "g": self.cell(y[-1], g), "r": self.relu(x)[0]}

    args = (torch.randn(5, 2, 4), torch.randn(1, 2, 20), torch.randn(1, 2, 20), torch.randn(2, 6))
    model = check_module(Step().eval(), args)
    assert [o.name for o in model.outputs] == ["y", "h", "c", "g", "r"]


def test_transformer() -> None:
    model = nn.Transformer(16, 2, 1, 2, 32, batch_first=True).eval()
    mask = nn.Transformer.generate_square_subsequent_mask(6)
    check_module(model, (torch.randn(2, 5, 16), torch.randn(2, 6, 16)), tgt_mask=mask,
                 tgt_is_causal=True, scale=3)  # fmt: skip


def test_mlp() -> None:
    layers: list[nn.Module] = []
    for act in (nn.ReLU, nn.Tanh, nn.SiLU, nn.GELU, nn.Softplus, nn.PReLU, nn.ELU, nn.Mish):
        layers += [nn.Linear(16, 16), nn.BatchNorm1d(16), act(), nn.Dropout()]
    check_module(stirred(nn.Sequential(*layers)), (torch.randn(1, 16),), (torch.randn(7, 16),),
                 (torch.randn(0, 16),), dynamic=({0: "batch"},), scale=5)  # fmt: skip


def test_half_precision() -> None:
    model = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.LayerNorm(32), nn.Linear(32, 4)).eval()
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        check_module(model.to(dtype), (torch.randn(3, 16).to(dtype),), scale=2)


# --- language -------------------------------------------------------------------------------------

transformers = pytest.importorskip("transformers")
COMMON = {"vocab_size": 50, "use_cache": False, "return_dict": True}


class Logits(nn.Module):
    """A model of transformers that gives its first output only."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=input_ids, attention_mask=attention_mask)[0]


def language_model(name: str) -> nn.Module:
    t = transformers
    if name == "bert":
        config = t.BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                              intermediate_size=64, max_position_embeddings=40,
                              vocab_size=50)  # fmt: skip
        return t.BertModel(config, add_pooling_layer=False)
    if name == "distilbert":
        config = t.DistilBertConfig(dim=32, n_layers=2, n_heads=4, hidden_dim=64, vocab_size=50,
                                    max_position_embeddings=40)  # fmt: skip
        return t.DistilBertModel(config)
    if name == "gpt2":
        config = t.GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=40, vocab_size=50,
                              use_cache=False)  # fmt: skip
        return t.GPT2LMHeadModel(config)
    if name == "t5":
        config = t.T5Config(d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, vocab_size=50)
        return t.T5EncoderModel(config)
    config = t.LlamaConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                           num_attention_heads=4, num_key_value_heads=2, vocab_size=50,
                           max_position_embeddings=64, use_cache=False)  # fmt: skip
    return t.LlamaForCausalLM(config)


@pytest.mark.filterwarnings("ignore:.*limits sizes. tokens")  # to the positions in a table
@pytest.mark.parametrize("name", some(["bert", "distilbert", "gpt2", "t5", "llama"], "bert"))
def test_language(name: str) -> None:
    model = Logits(language_model(name)).eval()
    ids, mask = torch.randint(0, 50, (2, 8)), torch.ones(2, 8, dtype=torch.int64)
    mask[0, 6:] = 0
    more = torch.randint(0, 50, (3, 13)), torch.ones(3, 13, dtype=torch.int64)
    dims = {0: "batch", 1: "tokens"}
    check_module(model, (ids, mask), more, dynamic={"input_ids": dims, "attention_mask": dims},
                 scale=5)  # fmt: skip


# --- the same as from ONNX ------------------------------------------------------------------------


def kernels(stages: Any) -> Counter[str]:
    """What stands in each kernel."""
    bodies = [n.attr("body") for n in toposort(*stages.fused.outputs) if n.op == "group"]
    leaves = ("input", "constant", "get")
    return Counter(
        "+".join(n.op for n in toposort(*body.outputs) if n.op not in leaves)
        for body in bodies
        if isinstance(body, Graph)
    )


@pytest.mark.parametrize("name", ["resnet", "mobilenet"])
def test_the_kernels_of_the_onnx_file(name: str, tmp_path: Path) -> None:
    """Batch norms folded, bias, sum and activation in the convolution: as from ONNX."""
    make, shape = VISION[name]
    network, x = stirred(make()), torch.randn(shape)
    export(network, {"x": x}, ["y"], path := tmp_path / "m.onnx")
    target = choose_target(None)
    from_onnx, from_torch = lower(path, target), lower(read_torch(network, x), target)
    assert kernels(from_torch) == kernels(from_onnx)
