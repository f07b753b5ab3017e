"""Codes of this stage; see the table in `archspec.codes`."""

from __future__ import annotations

from archspec.codes import collage, features
from archspec.codes.base import Code

CODES: tuple[Code, ...] = (
    Code(
        "AS701",
        "no data there",
        "The data is looked for as a bundled set, then as a path relative to the spec, then, if the name has the form "
        "of one, as a hub id. A file of prompts is a path as well.",
        bad="data: digitz",
        good="data: digits",
    ),
    Code(
        "AS702",
        "cannot tell what the data is",
        "With `kind: auto` the kind is told from the endings of the files. A folder of several kinds, of none, or of "
        "images partly in folders of classes and partly not, needs its kind written, or tidying up.",
        bad="data: downloads/        # images and parquet files",
        good="data: {from: downloads/, kind: images}",
    ),
    Code(
        "AS703",
        "the data has no such split or column",
        "A data set has named splits and columns. The columns of images, text and labels are found by their types "
        "where that is certain.",
        bad="data: {from: table.parquet, column: imge}",
        good="data: {from: table.parquet, column: image}",
    ),
    Code(
        "AS704",
        "the data is damaged",
        "A file is truncated, is not of the form that its name says, or would have to be unpickled, which never "
        "happens.",
        bad="data: latents.npy       # saved with dtype=object",
        good="data: latents.npy       # float16 numbers",
    ),
    Code(
        "AS705",
        "a class or token that the host does not know",
        "Labels count from 0 and must be below the host's number of classes, tokens below its vocabulary.",
        bad="archspec sample out/ --classes 10      # a host of ten classes: 0 to 9",
        good="archspec sample out/ --classes 9",
    ),
    Code(
        "AS706",
        "the data is empty",
        "Nothing can be learned from, or measured against, no example. Text that is shorter than the host's length "
        "gives none.",
        bad="data: {from: host, kind: generated, prompts: empty.txt}",
        good="data: {from: host, kind: generated, prompts: classes.txt}",
    ),
    Code(
        "AS707",
        "the data's shape does not fit the host",
        "Images are made to fit in size and colour; latents cannot be, and must have the channels and size of the "
        "host.",
        bad="data: latents-32x32.safetensors    # a host of 4x64x64",
        good="data: latents-64x64.safetensors",
    ),
    Code(
        "AS708",
        "text without a tokenizer",
        "Text is cut by the host's own tokenizer, whose files stand beside its config.json.",
        bad="data: corpus.txt        # the base folder holds no tokenizer.json",
        good="data: tokens.parquet    # with a column input_ids",
    ),
    Code(
        "AS709",
        "the data set cannot be loaded",
        "The name is neither a path nor a data set that the hub, or its cache while offline, has; or its files are "
        "not of their form.",
        bad="data: someone/no-such-set",
        good="data: data/train.parquet",
    ),
    Code(
        "AS710",
        "too few samples",
        "The covariance of n samples in d features has no full rank unless n > d, and a Frechet distance of it means "
        "nothing.",
        bad="eval: {samples: 50}     # a classifier of 64 features",
        good="eval: {samples: 1000}",
    ),
    Code(
        "AS711",
        "no classifier to judge samples",
        "`fd` and `agreement` need an image classifier that transformers' AutoModelForImageClassification loads. The "
        "bundled digits have theirs in a source checkout.",
        bad="eval: {metrics: [fd]}",
        good="eval: {metrics: [fd], classifier: specs/hosts/digits-classifier}",
    ),
    Code(
        "AS712",
        "the objective does not fit the host",
        "Language models learn `lm`; diffusion models `flow` or `epsilon`, told from the pipeline's scheduler. Other "
        "predictions are not known.",
        bad="finetune: {objective: lm}      # a diffusion host",
        good="finetune: {objective: auto}",
    ),
    Code(
        "AS713",
        "not for this host",
        "Some measurements and ways of sampling make sense for some hosts only: no images from a language model, no "
        "guidance without a condition, no paired error without the host.",
        bad="archspec eval out/ --metrics perplexity     # a diffusion host",
        good="archspec eval out/ --metrics fd,paired",
    ),
    Code(
        "AS714",
        "no usable model there",
        "A model is a folder with config.json and weights, or a pipeline's with model_index.json and the model inside.",
        bad="archspec sample out/model.safetensors",
        good="archspec sample out/",
    ),
    Code(
        "AS715",
        "a data set that is too small for the fraction",
        "A fraction is stratified: every class has its share. Of too few examples some class would have none. It is "
        "told before the run where the size of the data is known without reading them.",
        bad="finetune: {fraction: 0.1%}      # of 1,437 images of ten classes: one image",
        good="finetune: {fraction: 1%}",
    ),
    Code(
        "AS716",
        "a derivative of no loss",
        "`gate_sensitivity` is how much the loss of the host's task would change. An encoder without a head gives "
        "features and has no task.",
        bad="archspec probe HOST -m gate_sensitivity      # a BertModel",
        good="archspec probe HOST -m influence",
    ),
    Code(
        "AS720",
        "no plan in the folder",
        "`archspec run` carries out the plan.json that `archspec compile` wrote into the checkpoint's folder.",
        bad="archspec run specs/hosts/digits",
        good="archspec compile spec.yaml -o out && archspec run out",
    ),
    Code(
        "AS721",
        "malformed plan",
        "plan.json, or a file of the folder's .archspec, is not what archspec writes: a key is missing or unknown, a "
        "value has the wrong type, a task needs one that does not come before it. Nothing of it was run.",
        bad='{"version": 1, "tasks": [{"id": "fit/x", "key": "../../etc"}]}',
        good="archspec compile spec.yaml -o out   # writes the plan anew; finished tasks are kept",
    ),
    Code(
        "AS722",
        "the base is not at hand",
        "The new parts learn from the host, so a run needs it. The folder remembers where it was at compile time; a "
        "checkpoint that moved to another machine has to be told.",
        bad="archspec run out",
        good="archspec run out --base ./DiT-XL-2-256/transformer",
    ),
    Code(
        "AS723",
        "another base than the plan's",
        "The host that was given is not the one that the spec was compiled for: its content has another fingerprint. "
        "What the parts would learn from it would not fit the weights around them.",
        bad="archspec run out --base ./another-host",
        good="archspec run out --base ./the-host-that-was-compiled",
    ),
    Code(
        "AS724",
        "impossible shard",
        "A shard is written i/n: the i-th of n parts of the plan's independent tasks, counted from 1.",
        bad="archspec run out --shard 0/4",
        good="archspec run out --shard 1/4",
    ),
    Code(
        "AS725",
        "plan and weights disagree",
        "A task names a site that the checkpoint, or a tensor that the host, does not have. Plan and checkpoint are of "
        "two compilations, or one of them was edited by hand.",
        bad="a plan.json copied from another folder",
        good="archspec compile spec.yaml -o out",
    ),
    Code(
        "AS726",
        "no gate behind the site",
        "`gate_weighted` weighs errors by what the host multiplies a site's output with (adaLN's gate). This host adds "
        "the output as it is.",
        bad="base: ./llama\ndistill: {gate_weighted: true}",
        good="base: ./llama\ndistill: {gate_weighted: false}",
    ),
    Code(
        "AS727",
        "training diverged",
        "A loss became infinite or undefined. Finished tasks are kept; a finetuning's last checkpoint too.",
        bad="finetune: {lr: 10, clip: null}",
        good="finetune: {lr: 1e-4, clip: 1.0}",
    ),
    Code(
        "AS728",
        "no data to learn from",
        "A fit, a regression or a finetuning needs examples, and neither the spec nor the stage names any.",
        bad="distill: {epochs: 20}",
        good="data: digits\ndistill: {epochs: 20}",
    ),
    Code(
        "AS731",
        "another run is at work",
        "Two runs in one folder would do the same tasks twice. Shards of a job array each have a lock of their own.",
        bad="archspec run out & archspec run out",
        good="archspec run out --shard 1/2 & archspec run out --shard 2/2",
    ),
    Code(
        "AS732",
        "batch does not divide among processes",
        "The batch of a finetuning is that of all processes together, so each takes an equal part of it.",
        bad="accelerate launch --num_processes 3 -m archspec run out   # batch: 256",
        good="accelerate launch --num_processes 4 -m archspec run out   # batch: 256",
    ),
    Code(
        "AS733",
        "nothing left to train",
        "All weights that the finetuning could train are frozen.",
        bad="edits: [{freeze: blocks}]\nfinetune: {train: new}",
        good="edits: [{freeze: blocks}]\nfinetune: {train: all}",
    ),
    Code(
        "AS734",
        "out of memory",
        "The device has no memory left for the task. Finished tasks are kept.",
        bad="distill: {batch: 4096}",
        good="distill: {batch: 64}",
    ),
    Code(
        "AS735",
        "an unknown measure",
        "`archspec probe` measures locality (set by k), influence, gate_sensitivity, "
        "gate_sensitivity_squared, deviation, mean and largest.",
        bad="archspec probe HOST -m 'locality(band=32)'",
        good="archspec probe HOST -m 'locality(k=32)'",
    ),
    Code(
        "AS736",
        "a measure that no site shows",
        "Locality is read off torch's own attention kernel as it runs. A host that computes attention by other means, "
        "or has none, shows nothing.",
        bad="archspec probe HOST -m locality      # of a host of linear attention",
        good="archspec probe HOST -m influence",
    ),
    *features.CODES,
    *collage.CODES,
    Code(
        "AS737",
        "the store of artifacts is not there",
        "Finished tasks of a sweep's members are kept in one store, in the sweep's folder or where `--store` said. "
        "The store, or the member alone, has been moved. Nothing was run: all would be done again. What a new store "
        "lacks is made again; what is found there is used.",
        bad="mv /disk/store /other/store && archspec sweep sweep.yaml -o out/sweep",
        good="mv /disk/store /other/store && archspec sweep sweep.yaml -o out/sweep --store /other/store",
    ),
    Code(
        "AS738",
        "other data than the plan's",
        "Results are kept under keys that hash the content of the data, and the data have changed since the spec was "
        "compiled. What was learned from the former is still found by who compiles with them.",
        bad="archspec compile spec.yaml -o out && cp new.parquet data.parquet && archspec run out",
        good="cp new.parquet data.parquet && archspec compile spec.yaml -o out && archspec run out",
    ),
    Code(
        "AS739",
        "a probe would lose measures",
        "A probe keeps what its file holds of the same host, data, samples and seed, and adds to it. Where one of "
        "these is another, the measures that are not asked for now cannot stand beside the new ones, and would be "
        "gone.",
        bad="archspec probe HOST --data digits -o a.json && archspec probe HOST --data fashion -m influence -o a.json",
        good="archspec probe HOST --data digits -o a.json && archspec probe HOST --data fashion -m influence -o b.json",
    ),
    Code(
        "AS790",
        "tokens do not form the operator's grid",
        "A 2-D operator arranges its tokens on the grid that its host was called with. An operator that is run by "
        "itself knows that of the last call alone, and others of the same aspect ratio.",
        bad="block.attn1(torch.randn(1, 32 * 48, 1152))   # host trained on squares, layout: grid",
        good="model(latents_of_32_by_48, ...)",
    ),
)
