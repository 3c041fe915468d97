"""Models of the package `transformers`, from their configurations; one function a model.

Attention is what a user gets who asks for nothing: torch's `scaled_dot_product_attention`, which
the exporter spells out, with its masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx
import torch
import transformers
from torch import nn
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from .recipe import SMALL_GAMMA, export, initialise

CLASSES = 1000
BATCH = {0: "batch"}
TOKENS = {**BATCH, 1: "sequence"}


class Only(nn.Module):
    """A model that takes `inputs`, in this order, and of its outputs gives the one named."""

    def __init__(
        self, network: nn.Module, inputs: Sequence[str], output: str, **settings: bool
    ) -> None:
        super().__init__()
        self.network = network
        self.inputs = tuple(inputs)
        self.output = output
        self.settings = settings

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        named = dict(zip(self.inputs, tensors, strict=True))
        return getattr(self.network(**named, **self.settings), self.output)


def export_bert(config: transformers.BertConfig, path: Path) -> None:
    """Inputs as of the tokenizer, output `last_hidden_state` [batch, sequence, hidden]."""
    network = transformers.BertModel(config, add_pooling_layer=False)
    initialise(network)
    ids = torch.randint(0, config.vocab_size, (2, 7))
    examples = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "token_type_ids": torch.zeros_like(ids),
    }
    output = "last_hidden_state"
    axes = dict.fromkeys([*examples, output], TOKENS)
    export(Only(network, list(examples), output), examples, [output], path, axes=axes)


def bert_base(path: Path) -> None:
    torch.manual_seed(10)
    export_bert(transformers.BertConfig(), path)


def minilm_l6(path: Path) -> None:
    torch.manual_seed(11)
    export_bert(
        transformers.BertConfig(
            num_hidden_layers=6, hidden_size=384, num_attention_heads=12, intermediate_size=1536
        ),
        path,
    )


def gpt2(path: Path) -> None:
    """Weights lie in a file beside it, as exporters do it for large models."""
    torch.manual_seed(12)
    network = transformers.GPT2LMHeadModel(transformers.GPT2Config())
    initialise(network)
    ids = torch.randint(0, network.config.vocab_size, (2, 7))
    examples = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    axes = dict.fromkeys([*examples, "logits"], TOKENS)
    prefill = Only(network, list(examples), "logits", use_cache=False)
    export(prefill, examples, ["logits"], path, axes=axes)
    onnx.save(onnx.load(path), path, save_as_external_data=True, location=f"{path.name}.data")


def vit_base(path: Path) -> None:
    torch.manual_seed(13)
    network = transformers.ViTForImageClassification(transformers.ViTConfig(num_labels=CLASSES))
    initialise(network)
    examples = {"pixel_values": torch.randn(2, 3, 224, 224)}
    axes = dict.fromkeys([*examples, "logits"], BATCH)
    export(Only(network, list(examples), "logits"), examples, ["logits"], path, axes=axes)


def convnext_tiny(path: Path) -> None:
    torch.manual_seed(14)
    network = transformers.ConvNextForImageClassification(
        transformers.ConvNextConfig(num_labels=CLASSES)
    )
    initialise(network)
    for name, scale in network.named_parameters():
        if name.endswith("layer_scale_parameter"):  # it stands where others have a last gamma
            nn.init.uniform_(scale, 0.9 * SMALL_GAMMA, 1.1 * SMALL_GAMMA)
    examples = {"pixel_values": torch.randn(1, 3, 224, 224)}
    export(Only(network, list(examples), "logits"), examples, ["logits"], path)


def whisper_tiny_encoder(path: Path) -> None:
    torch.manual_seed(15)
    network = WhisperEncoder(
        transformers.WhisperConfig(
            d_model=384, encoder_layers=4, encoder_attention_heads=6, encoder_ffn_dim=1536
        )
    )
    positions = network.embed_positions.weight.clone()  # sines; not random
    initialise(network)
    network.embed_positions.weight.data = positions
    examples = {"input_features": torch.randn(1, 80, 3000)}
    output = "last_hidden_state"
    export(Only(network, list(examples), output), examples, [output], path)
