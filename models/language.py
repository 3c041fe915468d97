"""Transformers, from the package of that name, with random weights; one function a model.

Attention is what a user gets who asks for nothing: torch's `scaled_dot_product_attention`, which
the exporter spells out, with its masks.
"""

from __future__ import annotations

from pathlib import Path

import onnx
import torch
import transformers
from torch import nn
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from .recipe import export, initialise

TOKENS = {0: "batch", 1: "sequence"}


class Encoder(nn.Module):
    """A BERT whose only output is the last hidden state."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor,
    ) -> torch.Tensor:
        return self.network(
            input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
        ).last_hidden_state


def export_bert(config: transformers.BertConfig, path: Path) -> None:
    network = transformers.BertModel(config, add_pooling_layer=False)
    initialise(network)
    ids = torch.randint(0, config.vocab_size, (2, 7))
    examples = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "token_type_ids": torch.zeros_like(ids),
    }
    names = [*examples, "last_hidden_state"]
    export(
        Encoder(network), examples, names[-1:], path, axes=dict.fromkeys(names, TOKENS)
    )


def bert_base(path: Path) -> None:
    torch.manual_seed(10)
    export_bert(transformers.BertConfig(), path)


def minilm_l6(path: Path) -> None:
    torch.manual_seed(11)
    export_bert(
        transformers.BertConfig(
            num_hidden_layers=6,
            hidden_size=384,
            num_attention_heads=12,
            intermediate_size=1536,
        ),
        path,
    )


class Prefill(nn.Module):
    """A decoder that reads a whole prompt: logits of every token, no past."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.network(
            input_ids=input_ids, attention_mask=attention_mask, use_cache=False
        ).logits


def gpt2(path: Path) -> None:
    """Weights lie in a file beside it, as exporters do it for large models."""
    torch.manual_seed(12)
    network = transformers.GPT2LMHeadModel(transformers.GPT2Config())
    initialise(network)
    ids = torch.randint(0, network.config.vocab_size, (2, 7))
    examples = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    axes = dict.fromkeys([*examples, "logits"], TOKENS)
    export(Prefill(network), examples, ["logits"], path, axes=axes)
    onnx.save(onnx.load(path), path, save_as_external_data=True, location=f"{path.name}.data")


class Classifier(nn.Module):
    """An image classifier with one input and one output."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.network(pixel_values=pixel_values).logits


def vit_base(path: Path) -> None:
    torch.manual_seed(13)
    network = transformers.ViTForImageClassification(transformers.ViTConfig(num_labels=1000))
    initialise(network)
    axes = {"pixel_values": {0: "batch"}, "logits": {0: "batch"}}
    examples = {"pixel_values": torch.randn(2, 3, 224, 224)}
    export(Classifier(network), examples, ["logits"], path, axes=axes)


class Listener(nn.Module):
    """Whisper's encoder: a mel spectrogram becomes hidden states."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, input_features: torch.Tensor) -> torch.Tensor:
        return self.network(input_features).last_hidden_state


def whisper_tiny_encoder(path: Path) -> None:
    torch.manual_seed(14)
    network = WhisperEncoder(
        transformers.WhisperConfig(
            d_model=384, encoder_layers=4, encoder_attention_heads=6, encoder_ffn_dim=1536
        )
    )
    positions = network.embed_positions.weight.clone()  # sines; not random
    initialise(network)
    network.embed_positions.weight.data = positions
    examples = {"input_features": torch.randn(1, 80, 3000)}
    export(Listener(network), examples, ["last_hidden_state"], path)
