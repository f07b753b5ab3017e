"""Codes of feature grafts: what `inject` says, and donors that do not fit."""

from archspec.codes.base import Code

CODES = (
    Code(
        "AS750",
        "an injection of nothing",
        "`inject` needs a preset or grafts, and donors that its grafts take from: each is named once under `donors` "
        "or given to `archspec inject --donor`.",
        bad="inject: {donors: {cat: cat.png}, grafts: [{op: append, donors: [dog]}]}",
        good="inject: {donors: {cat: cat.png}, grafts: [{op: append, donors: [cat]}]}",
    ),
    Code(
        "AS751",
        "an injection into a host that takes none",
        "Injections are lowered onto attention that shows its queries, keys and values: of diffusers' DiT, PixArt, SD3 "
        "and FLUX, and of decoders of transformers.",
        bad="base: ./sana\ninject: shared_attention",
        good="base: black-forest-labs/FLUX.1-dev\ninject: shared_attention",
    ),
    Code(
        "AS752",
        "positions that the host or the graft does not have",
        "Donors' keys can stand at other places (`matched`, `offset`, `frame`) only where the host rotates keys by "
        "their places. Where places are in the tokens, `same` is all there is. `matched` needs a `match`; frames are "
        "FLUX's.",
        bad="base: facebook/DiT-XL-2-256\ninject: {position: matched, match: {}, grafts: [append]}",
        good="base: facebook/DiT-XL-2-256\ninject: {position: same, match: {}, grafts: [append]}",
    ),
    Code(
        "AS753",
        "an injection into what is no attention",
        "`into` names attentions of the host. One that an edit of the same spec replaces or drops shows no keys.",
        bad="inject: {into: blocks[*].mlp, grafts: [append]}",
        good="inject: {into: blocks[*].attn, grafts: [append]}",
    ),
    Code(
        "AS754",
        "a mask that does not fit",
        "Masks have the size of the image that they belong to, and something inside.",
        bad="archspec inject spec.yaml --donor cat=cat.png:mask-of-another-size.png",
        good="archspec inject spec.yaml --donor cat=cat.png:cat-mask.png",
    ),
    Code(
        "AS755",
        "a donor of another shape than the target",
        "Donor and target are rows of one batch: their latents and their encoded prompts have one shape.",
        bad="inject(model, injection, {'cat': donor_of_512_pixels})  # the target has 1024",
        good="inject(model, injection, {'cat': donor_of_1024_pixels})",
    ),
    Code(
        "AS756",
        "a time that an inversion did not record",
        "A donor of state inverted is replayed as it was recorded: sampling visits the times of its inversion, by the "
        "same solver in as many steps.",
        bad="pipe(..., num_inference_steps=20)  # inverted in 25",
        good="pipe(..., num_inference_steps=25)",
    ),
    Code(
        "AS757",
        "a model that takes no injection",
        "See AS751; here a loaded model is of another family.",
        bad="inject(sana_transformer, injection, donors)",
        good="inject(flux_transformer, injection, donors)",
    ),
    Code(
        "AS758",
        "no attention at a site of an injection",
        "The module has no attention processor: an operator graft took its place, or the injection is of another host.",
        bad="inject(model_with_hyena, injection_of_the_host, donors)",
        good="compile the operator grafts and `inject` in one spec",
    ),
    Code(
        "AS759",
        "times or steps that there are not",
        "Times go from noise to clean, 1 to 0, the first not below the second; steps are numbers of the sampler's, the "
        "first and the one after the last.",
        bad="inject: {sampler: {steps: 25}, steps: [0, 30], grafts: [append]}",
        good="inject: {sampler: {steps: 25}, steps: [0, 25], grafts: [append]}",
    ),
    Code(
        "AS760",
        "an operation whose settings contradict it",
        "`copy` works before the block, where only the block's input can be matched; `owner` needs matches and two "
        "donors; a donor of state batch needs its row.",
        bad="inject: {match: {tap: k}, grafts: [copy]}",
        good="inject: {match: {tap: block_input}, grafts: [copy]}",
    ),
    Code(
        "AS761",
        "a state that the host's donors cannot be in",
        "Inversion goes back the way that a solver of the host's flow, or of its noise, goes; schedulers that look at "
        "several steps, or draw, are not gone back with. A decoder's donors are texts, of no state.",
        bad="base: PixArt-alpha/PixArt-Sigma-XL-2-1024-MS\ninject: {state: inverted, grafts: [append]}",
        good="base: PixArt-alpha/PixArt-Sigma-XL-2-1024-MS\n"
        "inject: {state: inverted, sampler: {solver: fireflow}, grafts: [append]}",
    ),
    Code(
        "AS762",
        "a donor without what its state needs",
        "Donors are images (of state batch: rows of the batch); a collage needs the mask of each, or a detector and a "
        "segmenter that find it.",
        bad="archspec inject spec.yaml --prompt 'a cat'",
        good="archspec inject spec.yaml --prompt 'a cat' --donor cat=cat.png",
    ),
    Code(
        "AS763",
        "a spec that must be compiled before it is drawn from",
        "`archspec inject` runs a pipeline. The edits and packs of a spec are in the checkpoint that it compiles to.",
        bad="archspec inject hyena-and-donors.yaml --prompt 'a cat'",
        good="archspec compile hyena-and-donors.yaml -o out/hyena && archspec inject out/hyena --prompt 'a cat'",
    ),
    Code(
        "AS764",
        "a host that cannot be drawn from in this way",
        "`archspec inject` needs a pipeline: prompts are encoded by its text encoders, classes drawn by their number.",
        bad="archspec inject spec.yaml --prompt 'a cat'  # the base is a transformer alone",
        good="base: the folder of the whole pipeline, and `subfolder: transformer`",
    ),
)
