"""The text side of the host of shapes: a tokenizer of words, and two encoders of transformers that are never trained.

What they must do for captions of some forty words is to tell words apart and to tell a word's neighbours, and weights
drawn at random do that. T5's heads each read the one neighbour at their distance: the bias of relative positions is
all that decides, queries and keys are zero. So the padding of a caption, from REACH tokens behind it on, is the same
in every place and for every length that it is padded to.
"""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast, T5Config, T5EncoderModel

from archspec.runtime.data.scenes import LONGEST, WORDS

SPECIAL = ("<pad>", "<s>", "<unk>", "</s>")
VOCABULARY = (*SPECIAL, *WORDS)
NEIGHBOURS = (-3, -2, -1, 1, 2, 3)
"""The place that each of T5's heads reads, from its own."""
REACH = max(NEIGHBOURS)
TOKENS = LONGEST + 1 + REACH + 1
"""Of the longest caption with its end and what reads it, and one of padding alone."""
WIDTH, POOLED = 128, 64
BUCKETS = 32


def tokenizer(form: str) -> PreTrainedTokenizerFast:
    """Words between the special tokens of `form`, such as `$A </s>`; others are unknown."""
    ids = {word: i for i, word in enumerate(VOCABULARY)}
    words = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(form, special_tokens=[(t, ids[t]) for t in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        bos_token="<s>",
        unk_token="<unk>",
        eos_token="</s>",
        model_max_length=TOKENS,
    )


def make_t5() -> T5EncoderModel:
    """One layer: a token's feature (width 128) tells its word, those of its neighbours, and which is where."""
    config = T5Config(
        vocab_size=len(VOCABULARY),
        d_model=WIDTH,
        d_kv=32,
        d_ff=WIDTH,
        num_layers=1,
        num_heads=len(NEIGHBOURS),
        relative_attention_num_buckets=BUCKETS,
        dropout_rate=0.0,
        pad_token_id=VOCABULARY.index("<pad>"),
        eos_token_id=VOCABULARY.index("</s>"),
    )
    model = T5EncoderModel(config)
    redraw(model, seed=1)
    attention = model.encoder.block[0].layer[0].SelfAttention
    nn.init.zeros_(attention.q.weight)
    nn.init.zeros_(attention.k.weight)
    bias = torch.full((BUCKETS, len(NEIGHBOURS)), -60.0)
    bias[0] = -20.0  # where there is no such neighbour, a token reads itself
    for head, place in enumerate(NEIGHBOURS):
        bias[-place if place < 0 else BUCKETS // 2 + place, head] = 0.0
    attention.relative_attention_bias.weight.data.copy_(bias)
    return frozen(model)


def make_clip() -> CLIPTextModel:
    """Two layers; the feature of a caption's end (width 64) is one of all its words."""
    config = CLIPTextConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=POOLED,
        intermediate_size=2 * POOLED,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        pad_token_id=VOCABULARY.index("<pad>"),
        bos_token_id=VOCABULARY.index("<s>"),
        eos_token_id=VOCABULARY.index("</s>"),
    )
    model = CLIPTextModel(config)
    redraw(model, seed=2)
    return frozen(model)


def redraw(model: nn.Module, seed: int) -> None:
    """Draw every matrix so that it keeps the size of what it is given, and embeddings of size one."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, generator=generator)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5, generator=generator)


def frozen(model: nn.Module) -> nn.Module:
    """Return the model in fp32, of numbers that fp16 holds as well."""
    return model.half().float().eval().requires_grad_(False)
