"""Codes of this stage; see the table in `archspec.codes`."""

from __future__ import annotations

from archspec.codes.base import Code

CODES: tuple[Code, ...] = (
    Code(
        "AS401",
        "unknown model class",
        "A host is built from the class that its config names, which must be a model class of diffusers or "
        "transformers in the installed version. No other code is ever loaded.",
        bad='config.json: {"_class_name": "DiTTransformer2D"}',
        good='config.json: {"_class_name": "DiTTransformer2DModel"}',
    ),
    Code(
        "AS402",
        "the model class refuses its config",
        "The library's own class raised an error on the values of config.json.",
        bad='config.json: {"_class_name": "DiTTransformer2DModel", "norm_type": "strange"}',
        good='config.json: {"_class_name": "DiTTransformer2DModel", "norm_type": "ada_norm_zero"}',
    ),
    Code(
        "AS403",
        "impossible number of tokens",
        "A host whose tokens are a square grid takes square numbers of them; some hosts take one number alone.",
        bad="expect: [flops(tokens=300) <= 0.9x]",
        good="expect: [flops(tokens=256) <= 0.9x]",
    ),
    Code(
        "AS404",
        "no example input for this host",
        "A host of no known family is run on inputs that are made from the parameter names of its `forward` and the "
        "sizes in its config. A required parameter of another name has no rule.",
        bad="base: a model whose forward requires `my_condition`",
        good="base: a model that runs on input_ids, pixel_values or hidden_states with timestep",
    ),
    Code(
        "AS405",
        "the host branches on data",
        "Capture runs the host on tensors that have shapes and no content. A host that decides by the content of a "
        "tensor which layers to run has no single graph.",
        bad="base: a model with `if logits.max() > 0:` between its blocks",
        good="base: a model that runs the same layers for every input",
    ),
    Code(
        "AS406",
        "the host does not run",
        "The host's own code raised an error in the run that captures its graph.",
        bad='config.json: {"num_attention_heads": 3, "hidden_size": 32}',
        good='config.json: {"num_attention_heads": 4, "hidden_size": 32}',
    ),
    Code(
        "AS407",
        "tensors are not named as the modules are",
        "transformers loads some old layouts by renaming their tensors. A spec names sites by the paths in the "
        "checkpoint, so they must be those of the modules.",
        bad="encoder.layer.0.attention.attention.query.weight (a ViT saved in its original format)",
        good="layers.0.attention.q_proj.weight (saved with save_pretrained(folder, save_original_format=False))",
    ),
)
