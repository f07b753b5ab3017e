"""Codes of merges of checkpoints. They belong to the stage of checkpoints and files."""

from archspec.codes.base import Code

CODES = (
    Code(
        "AS690",
        "a merge that cannot be read",
        "`archspec merge` reads mergekit's YAML strictly: a key or parameter that nobody knows, or that the method "
        "does not read, would be passed over in silence elsewhere and is an error here.",
        bad="models: [{model: ./chat, parameters: {wieght: 1.0}}]",
        good="models: [{model: ./chat, parameters: {weight: 1.0}}]",
    ),
    Code(
        "AS691",
        "a part of mergekit that is not supported",
        "mergekit knows it, `archspec merge` does not: modules, tokenizers that are joined, adapters, and some "
        "methods. It is refused by name rather than passed over.",
        bad="tokenizer_source: union",
        good="tokenizer_source: base",
    ),
    Code(
        "AS692",
        "a merge parameter of a wrong value",
        "A parameter is a finite number, a list of numbers spread over depth, or a list of filters with values; "
        "densities are fractions, `normalize` and `rescale` true or false, dtypes float32, float16 or bfloat16. "
        "Weights that `linear` divides by do not sum to 0.",
        bad="parameters: {density: 50}",
        good="parameters: {density: 0.5}",
    ),
    Code(
        "AS693",
        "a merge that lacks something",
        "The method needs a base model, another number of models, or a parameter that is not written for every tensor.",
        bad="merge_method: slerp\nbase_model: ./a\nmodels: [{model: ./b}]",
        good="merge_method: slerp\nbase_model: ./a\nmodels: [{model: ./b}]\nparameters: {t: 0.5}",
    ),
    Code(
        "AS694",
        "models with different tensors",
        "All models of a merge have tensors of the same names; repeats of tied tensors do not count.",
        bad="models: [{model: ./four-blocks}, {model: ./six-blocks}]",
        good="models: [{model: ./four-blocks}, {model: ./four-blocks-tuned}]",
    ),
    Code(
        "AS695",
        "models with tensors of different shapes",
        "Tensors of one name are combined number by number. Embeddings of vocabularies of different sizes are resized "
        "first, by who knows which entries are meant.",
        bad="models: [{model: ./vocab-32000}, {model: ./vocab-32016}]",
        good="models: [{model: ./vocab-32016-resized}, {model: ./vocab-32016}]",
    ),
    Code(
        "AS696",
        "a dtype that cannot be merged",
        "Tensors of float32, float16 and bfloat16 are merged. Quantized weights have no sum.",
        bad="models: [{model: ./chat-int8}]",
        good="models: [{model: ./chat}]",
    ),
    Code(
        "AS697",
        "models of different classes",
        "The configs of the models name different classes, whose weights do not mean the same.",
        bad="models: [{model: ./llama}, {model: ./qwen}]",
        good="models: [{model: ./llama}, {model: ./llama-chat}]",
    ),
    Code(
        "AS698",
        "a filter that holds for no tensor",
        "A filter is a part of a tensor's name. One that is part of none would do nothing.",
        bad="parameters: {weight: [{filter: atn, value: 0}, {value: 1}]}",
        good="parameters: {weight: [{filter: attn, value: 0}, {value: 1}]}",
    ),
    Code(
        "AS699",
        "a slice that does not fit",
        "The sources of a slice have equally many blocks, within the blocks of their models. Slices are cut from "
        "models with one list of blocks.",
        bad="slices: [{sources: [{model: ./a, layer_range: [0, 40]}]}]    # of 32 blocks",
        good="slices: [{sources: [{model: ./a, layer_range: [0, 32]}]}]",
    ),
)
