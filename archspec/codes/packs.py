"""Codes of SkillPacks: packing, attaching, detaching. They belong to the stage of checkpoints and files."""

from archspec.codes.base import Code

CODES = (
    Code(
        "AS665",
        "a calibration without data",
        "`calibrate` runs the tuned model on data, its own or the spec's, to learn what linear maps are given; GPTQ "
        "goes by that.",
        bad="pack: {tuned: tuned, rules: [{of: mlp, store: [{op: quantize, bits: 4, method: gptq}]}]}",
        good="pack: {tuned: tuned, calibrate: {data: texts.txt}, "
        "rules: [{of: mlp, store: [{op: quantize, bits: 4, method: gptq}]}]}",
    ),
    Code(
        "AS666",
        "GPTQ on what is not the weight of a linear map",
        "GPTQ makes up for rounding by what a linear map's inputs have in common. Norms, biases, embeddings, "
        "convolutions and weights that a head shares with an embedding have no such inputs.",
        bad="rules: [{of: embed, store: [{op: quantize, bits: 4, method: gptq}]}]",
        good="rules: [{of: embed, store: [{op: quantize, bits: 4}]}]",
    ),
    Code(
        "AS667",
        "activations that are no numbers",
        "NaN or infinity among what a linear map is given in calibration would make every error, and GPTQ's result, "
        "useless. The tuned model overflows on these data, or is damaged.",
        bad="pack: {tuned: diverged, calibrate: {data: texts.txt}}",
        good="pack: {tuned: checkpoint-1000, calibrate: {data: texts.txt}}",
    ),
    Code(
        "AS668",
        "a base that calibration cannot tune",
        "Calibration runs the base with the differences added. The model that diffusers or transformers makes of the "
        "base has no tensor of this name: the checkpoint keeps old names.",
        bad="pack: {tuned: old-names, calibrate: {data: texts.txt}}",
        good="pack: {tuned: old-names, budget: 6%}",
    ),
    Code(
        "AS669",
        "a pack whose tensors a graft has not kept",
        "A compiled checkpoint takes what a pack adds to those of its tensors that are copies of the base's. What an "
        "edit dropped, replaced or computed, or a run trained, has no place for a difference. `--partial` leaves that "
        "out; `attach` in the spec puts packs on the base before edits read it.",
        bad="archspec attach out/grafted sql.skillpack.safetensors -o out/sql",
        good="archspec attach out/grafted sql.skillpack.safetensors -o out/sql --partial",
    ),
    Code(
        "AS670",
        "a rule of a pack that names no tensor",
        "The first rule that names a tensor counts. A rule whose tensors are all named before, or of which the base "
        "has none, would do nothing, and so would one of `weights` that no site of it has.",
        bad="rules: [{of: mlp, store: [sign]}, {of: 'blocks[0].mlp', store: [dense]}]",
        good="rules: [{of: 'blocks[0].mlp', store: [dense]}, {of: mlp, store: [sign]}]",
    ),
    Code(
        "AS671",
        "a pack that does not say what it is made of",
        "A pack is made from one of tuned, lora, delta and bitdelta. Each form of a term has its own settings: prune "
        "keeps a part, quantize has bits, svd keeps triplets by one of rank, energy, bytes or bands. `none` stands "
        "alone.",
        bad="pack: {tuned: tuned, rules: [{of: mlp, store: [{op: prune, rank: 4}]}]}",
        good="pack: {tuned: tuned, rules: [{of: mlp, store: [{op: prune, keep: 2%}]}]}",
    ),
    Code(
        "AS672",
        "nothing to pack",
        "`archspec pack` reads the `pack` stanza of a spec.",
        bad="archspec pack specs/examples/digits.yaml",
        good="pack: {tuned: tuned, budget: 6%}",
    ),
    Code(
        "AS673",
        "a checkpoint that no pack can be attached to",
        "Packs are attached to the base that they were made of, a folder. Where packs are attached already, attach all "
        "of them to the base in one command.",
        bad="archspec attach out/sql chat.skillpack.safetensors -o out/both",
        good="archspec attach base sql.skillpack.safetensors chat.skillpack.safetensors -o out/both",
    ),
    Code(
        "AS674",
        "nothing to detach",
        "`archspec attach` leaves a record (skillpacks.json) of the base and of the packs in what it writes. Without "
        "it nothing says what the base was.",
        bad="archspec detach base -o out/base",
        good="archspec detach out/sql -o out/base",
    ),
    Code(
        "AS675",
        "the base is not at hand",
        "Detaching gives back the base's own bytes; it never subtracts, which would not restore them. They come from "
        "the links that `attach` left, or from the base itself. Content is compared by digests.",
        bad="archspec detach out/sql -o out/base      # the base was moved",
        good="archspec detach out/sql -o out/base --base elsewhere/base",
    ),
    Code(
        "AS676",
        "a pack that is no LoRA",
        "A LoRA of peft holds low-rank additions to matrices. Norms, biases and terms that are not of low rank have no "
        "place in it; `--rank` approximates matrices, `--partial` leaves the rest out.",
        bad="archspec packs export sql.skillpack.safetensors -o lora",
        good="archspec packs export sql.skillpack.safetensors -o lora --rank 32 --partial",
    ),
    Code(
        "AS677",
        "a router that does not say what it routes between",
        "`archspec route` reads the `route` stanza of a spec: tasks with names, each with the packs that are active "
        "for it. Below its threshold the base answers; `reject` is another way to say that threshold.",
        bad="route: {by: map, tasks: [{name: sql, packs: [a]}, {name: sql, packs: [b]}]}",
        good="route: {by: map, tasks: [{name: sql, packs: [a]}, {name: code, packs: [b]}]}",
    ),
    Code(
        "AS678",
        "too few examples of a task",
        "Prototypes and classifiers are made of example prompts of every task, read from a file with one a line. The "
        "threshold is found on examples that are held out in turn, which takes two of every task; a classifier takes "
        "two tasks.",
        bad="route: {by: prototypes, tasks: [{name: sql, packs: [sql.skillpack.safetensors]}]}",
        good="route: {by: prototypes, tasks: [{name: sql, packs: [sql.skillpack.safetensors], examples: sql.txt}]}",
    ),
    Code(
        "AS679",
        "more outputs to average than tasks",
        "`top` is the number of tasks whose outputs are averaged: the model runs once for each.",
        bad="route: {by: map, top: 3, tasks: [{name: sql}, {name: code}]}",
        good="route: {by: map, top: 2, tasks: [{name: sql}, {name: code}]}",
    ),
    Code(
        "AS680",
        "a file that is no sound SkillPack",
        "The header of a pack says which parts the file holds, of which data types and shapes. The file is cut off, is "
        "no pack, or contradicts its header; nothing of it is used.",
        bad="archspec attach base model.safetensors -o out/sql",
        good="archspec attach base sql.skillpack.safetensors -o out/sql",
    ),
    Code(
        "AS681",
        "a pack of another base",
        "A difference means something only beside the weights that it is the difference to. A pack holds the digest of "
        "every tensor that it changes.",
        bad="archspec attach llama-3.2 math.skillpack.safetensors -o out/math      # made of llama-3.1",
        good="archspec attach llama-3.1 math.skillpack.safetensors -o out/math",
    ),
    Code(
        "AS682",
        "a source that is not what tuning made of the base",
        "A tuned model has the tensors of its base, in the same shapes. A LoRA, a file of differences or of BitDelta "
        "names tensors of the base.",
        bad="pack: {tuned: other-architecture, budget: 6%}",
        good="pack: {tuned: tuned, budget: 6%}",
    ),
    Code(
        "AS683",
        "a difference that is no number",
        "NaN or infinity in a difference would make the attached weights useless everywhere.",
        bad="tuned: diverged",
        good="tuned: checkpoint-1000",
    ),
    Code(
        "AS684",
        "a budget of a pack that cannot be met",
        "What rules fix, and the header, take their bytes whatever the budget is. Tensors that no rule names need a "
        "budget to share, and one that some of them fit into.",
        bad="pack: {tuned: tuned, budget: 1%, rules: [{of: mlp, store: [dense]}]}",
        good="pack: {tuned: tuned, budget: 6%}",
    ),
    Code(
        "AS685",
        "nothing differs",
        "The tuned model is its base: there is nothing to pack.",
        bad="pack: {tuned: base, budget: 6%}",
        good="pack: {tuned: tuned, budget: 6%}",
    ),
    Code(
        "AS686",
        "a threshold outside of its range",
        "The score of prototypes is a cosine, from -1 to 1; that of a classifier a probability, from 0 to 1. No score "
        "is above 1, so the base would answer everything.",
        bad="route: {by: prototypes, threshold: 30}",
        good="route: {by: prototypes, threshold: 0.3}",
    ),
    Code(
        "AS687",
        "a task that the router does not know",
        "Tasks are called by the names that the `route` stanza gives them. A map is told the task of every request: "
        "it cannot be asked which task a prompt is of. Requests have one task each, or one name for all of them.",
        bad="archspec packs route skills.router.safetensors --task sqll",
        good="archspec packs route skills.router.safetensors --task sql",
    ),
    Code(
        "AS688",
        "a file that is no sound router",
        "The header of a router says what the file holds. It is cut off, is no router, or contradicts its header; "
        "nothing of it is used.",
        bad="archspec packs route sql.skillpack.safetensors",
        good="archspec packs route skills.router.safetensors",
    ),
    Code(
        "AS689",
        "a router of another base",
        "Prototypes and classifiers know the embeddings of one base, and packs are differences to one base. Where the "
        "fingerprints differ, or embeddings have another width, nothing that the router says has a meaning.",
        bad="archspec packs route llama-3.1.router.safetensors --base llama-3.2 'a prompt'",
        good="archspec packs route llama-3.1.router.safetensors --base llama-3.1 'a prompt'",
    ),
)
