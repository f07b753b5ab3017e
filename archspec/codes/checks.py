"""Codes of the checks: shapes, constraints, expectations; see the table in `archspec.codes`."""

from __future__ import annotations

from archspec.codes.base import Code

CODES: tuple[Code, ...] = (
    Code(
        "AS301",
        "an operator does not fill the slot",
        "Every operator names the slots that it can fill: a token mixer stands for attention, not for an MLP. "
        "`docs/operators.md` lists them.",
        bad="edits: [{replace: 'blocks[*].mlp', with: hyena_x}]",
        good="edits: [{replace: 'blocks[*].attn', with: hyena_x}]",
    ),
    Code(
        "AS302",
        "an operator does not fit the site",
        "The operator's parameters, completed from the site, break one of its constraints: heads that do not divide "
        "the width, a 2-D window where tokens form no grid, an operator that would let a causal host see later tokens, "
        "weights for each token where their number is not fixed.",
        bad="edits: [{replace: 'blocks[*].attn', with: {op: attention, heads: 7}}]",
        good="edits: [{replace: 'blocks[*].attn', with: {op: attention, heads: 8}}]",
    ),
    Code(
        "AS310",
        "an initialization is not supported by the operator",
        "Not every operator has every initialization: one without weights can only be what it is.",
        bad="edits: [{replace: 'blocks[3]', with: identity, init: least_squares}]",
        good="edits: [{replace: 'blocks[3]', with: identity}]",
    ),
    Code(
        "AS311",
        "the teacher's weights cannot be inherited",
        "`init inherit` maps the weights of the replaced module into the new operator, so both must agree in what is "
        "mapped: heads, projections, biases, activation. Another `init` has no such needs.",
        bad="edits: [{replace: 'blocks[*].mlp', with: {op: mlp, activation: relu}, init: inherit}]",
        good="edits: [{replace: 'blocks[*].mlp', with: {op: mlp, activation: relu}, init: random}]",
    ),
    Code(
        "AS312",
        "init artifact names no artifact",
        "`init artifact` reads weights that an earlier plan made, from the path in `from`.",
        bad="init: artifact",
        good="init: {kind: artifact, from: ../out/fit/blocks.1.attn.safetensors}",
    ),
    Code(
        "AS320",
        "a stage needs data",
        "Least squares, distillation and finetuning read examples. Name them once for all stages under `data`.",
        bad="distill: {samples: 8192}",
        good="data: digits\ndistill: {samples: 8192}",
    ),
    Code(
        "AS321",
        "nothing to learn",
        "A stage that trains new parts has no new part to train: no edit of the spec makes new weights.",
        bad="edits: [{drop: 'blocks[3]'}]\nfinetune: {train: new}",
        good="edits: [{drop: 'blocks[3]'}]\nfinetune: {train: all}",
    ),
    Code(
        "AS322",
        "a setting has no effect",
        "A setting was written that nothing will read, because of another setting beside it. A warning; an error with "
        "--strict.",
        bad="init: {kind: random, ridge: 0.001}",
        good="init: {kind: least_squares, ridge: 0.001}",
    ),
    Code(
        "AS323",
        "suspicious training settings",
        "Numbers that contradict one another, such as a warm-up as long as the whole training. A warning; an error "
        "with --strict.",
        bad="finetune: {steps: 1000, warmup: 5000}",
        good="finetune: {steps: 1000, warmup: 50}",
    ),
    Code(
        "AS324",
        "label dropout for a host without labels",
        "Label dropout replaces a class or a caption by the null one. A language model takes neither.",
        bad="finetune: {objective: lm, label_dropout: 0.1}",
        good="finetune: {objective: lm}",
    ),
    Code(
        "AS325",
        "a path of a stage does not exist",
        "A text that begins with `.`, `/` or `~` is a path, relative to the spec that names it. Pictures, masks, "
        "prompts, artifacts and files of differences are files, however they begin, and a LoRA is a folder.",
        bad="eval: {classifier: ./hosts/clasifier}",
        good="eval: {classifier: ./hosts/classifier}",
    ),
    Code(
        "AS326",
        "a metric or objective does not fit the host",
        "Samples of images have no perplexity, and a language model draws no images to compare.",
        bad="base: {from: meta-llama/Llama-3.2-1B}\neval: {metrics: [fd]}",
        good="base: {from: meta-llama/Llama-3.2-1B}\neval: {metrics: [perplexity]}",
    ),
    Code(
        "AS330",
        "an expectation is broken",
        "The result is not what an `expect` line says. Each is held against the result at the first stage that can "
        "know it: depth, params, weights, sites, causality and reach at validate, FLOPs and activations at compile, "
        "quality and latency at eval.",
        bad="edits: [{drop: 'blocks[3]'}]\nexpect: [depth == 28]",
        good="edits: [{drop: 'blocks[3]'}]\nexpect: [depth == 27]",
    ),
    Code(
        "AS331",
        "an expectation is never measured",
        "The expectation speaks of measured quality, and the spec has no `eval` that measures it. A warning; an error "
        "with --strict.",
        bad="expect: [fd <= 1.1x]",
        good="eval: {metrics: [fd]}\nexpect: [fd <= 1.1x]",
    ),
    Code(
        "AS340",
        "the host is not at hand",
        "The base is a hub id that is not in the local cache, so selectors, shapes and expectations were not checked "
        "against it. Validation never uses the network. A note.",
        bad="base: {from: facebook/DiT-XL-2-256, subfolder: transformer}",
        good="hf download facebook/DiT-XL-2-256",
    ),
    Code(
        "AS350",
        "the model was run on another number of tokens",
        "Some operators, such as the published hyena_mlp, have weights for each token, so their model runs at its "
        "native size alone. The input had another.",
        bad="archspec plan spec.yaml --tokens 1024   # with: hyena_mlp, on a host of 256 tokens",
        good="with: {op: hyena_mlp, channels: shared}",
    ),
    Code(
        "AS351",
        "an expectation at a number of tokens that the result does not run on",
        "An operator of the spec has weights for each token, and the expectation asks for the cost at another number "
        "of them. The result has none there.",
        bad="edits: [{replace: 'blocks[0].mlp', with: hyena_mlp}]\nexpect: [flops(tokens=1024) <= 1.1x]",
        good="edits: [{replace: 'blocks[0].mlp', with: hyena_mlp}]\nexpect: [flops(tokens=256) <= 1.1x]",
    ),
    Code(
        "AS352",
        "samples of a size that the host cannot draw",
        "A sample is cut into patches, which must fill it; and a host that keeps a table of positions draws nothing "
        "beyond it.",
        bad="archspec sample out/ --size 63      # patches of 2 x 2",
        good="archspec sample out/ --size 64",
    ),
    Code(
        "AS353",
        "captions of another host",
        "`--captions` names a safetensors file with the embeddings of captions, a row for each: `caption` (rows, "
        "tokens, width), and of the same rows `pooled` (rows, width) for SD3 and FLUX, or `caption_mask` (rows, "
        "tokens) for the others. Their widths are those that the host's text encoders give.",
        bad="archspec sample flux/ --captions clip_only.safetensors",
        good="archspec sample flux/ --captions texts.safetensors     # caption and pooled",
    ),
)
