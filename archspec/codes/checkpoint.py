"""Codes of this stage; see the table in `archspec.codes`."""

from __future__ import annotations

from archspec.codes import merging, packs
from archspec.codes.base import Code

CODES: tuple[Code, ...] = (
    Code(
        "AS600",
        "base not found",
        "`base.from` is looked up as a path relative to the spec file, then as a hub id in the local cache of Hugging "
        "Face. A path that does not exist is an error; a hub id that is not cached is a note for `validate` and an "
        "error for every command that needs the weights.",
        bad="base: ./hosts/digit",
        good="base: ./hosts/digits",
    ),
    Code(
        "AS601",
        "no model there",
        "The base is found but is not a model: the folder has no config.json, it is a pipeline of several models "
        "and the spec does not say which one is edited, or it is a spec.",
        bad="base: facebook/DiT-XL-2-256",
        good="base: {from: facebook/DiT-XL-2-256, subfolder: transformer}",
    ),
    Code(
        "AS602",
        "unreadable config",
        "The model's config.json is not one JSON object with distinct keys.",
        bad='{"num_layers": 28, "num_layers": 12}',
        good='{"num_layers": 28}',
    ),
    Code(
        "AS603",
        "config attribute not supported",
        "A host family handles or ignores every attribute of its config; anything else could change what the model "
        "computes, so it is refused by name. Attributes that are off (null, false, empty) are accepted.",
        bad='{"_class_name": "DiTTransformer2DModel", "window_size": 8}',
        good='{"_class_name": "DiTTransformer2DModel"}',
    ),
    Code(
        "AS604",
        "impossible config value",
        "An attribute of the model's config has a value of the wrong type, out of range, or at odds with another one.",
        bad='{"_class_name": "DiTTransformer2DModel", "num_layers": "many"}',
        good='{"_class_name": "DiTTransformer2DModel", "num_layers": 28}',
    ),
    Code(
        "AS605",
        "config names no class",
        "The class of the model is read from `_class_name` (diffusers) or `architectures` (transformers).",
        bad='{"model_type": "llama"}',
        good='{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}',
    ),
    Code(
        "AS606",
        "config and weights disagree",
        "The tensors that the config calls for are not those in the safetensors headers: one is missing, or has "
        "another shape. The weights of another model, or an edited config, look like this.",
        bad='config.json: {"num_layers": 28}, model.safetensors: 12 layers',
        good='config.json: {"num_layers": 12}, model.safetensors: 12 layers',
    ),
    Code(
        "AS607",
        "base has changed",
        "The spec or a lock states the fingerprint of the base, and the content found has another one.",
        bad="base: {from: ./host, fingerprint: xxh3:00000000000000000000000000000000}",
        good="base: {from: ./host}",
    ),
    Code(
        "AS608",
        "unsafe or malformed name of a base",
        "A subfolder, revision or hub id may not leave its folder: no `..`, no absolute path, no backslash. Only "
        "hub ids have revisions.",
        bad="base: {from: facebook/DiT-XL-2-256, subfolder: ../other}",
        good="base: {from: facebook/DiT-XL-2-256, subfolder: transformer}",
    ),
    Code(
        "AS609",
        "base is a compiled checkpoint",
        "A spec edits a pretrained model as its library knows it. To edit a result further, inherit its spec with "
        "`extends` and add edits: all edits then apply to the one base, and the result can be compared with it.",
        bad="base: ./out/dit-hyena",
        good="extends: dit-hyena.yaml",
    ),
    Code(
        "AS610",
        "weights cannot be read",
        "A file of weights is missing, is no regular file, may not be read, or is one of several without an index.",
        bad="base: ./folder-with-a.safetensors-and-b.safetensors",
        good="base: ./folder/a.safetensors",
    ),
    Code(
        "AS611",
        "pickled weights",
        "Opening a pickle (.bin, .pt, .ckpt) can run code that its author chose. archspec reads safetensors only.",
        bad="base: ./pytorch_model.bin",
        good="base: ./model.safetensors",
    ),
    Code(
        "AS612",
        "truncated safetensors file",
        "The file ends before its own header does; the download or copy was cut short.",
        bad="a file of 5 bytes",
        good="the whole file",
    ),
    Code(
        "AS613",
        "impossible header length",
        "The first eight bytes of a safetensors file give the length of its header, at most 100 MB.",
        bad="a text file renamed to model.safetensors",
        good="a safetensors file",
    ),
    Code(
        "AS614",
        "unreadable safetensors header",
        "The header must be one JSON object in UTF-8 with distinct keys.",
        bad='{"w": {...}, "w": {...}}',
        good='{"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}',
    ),
    Code(
        "AS615",
        "malformed tensor entry",
        "An entry of a safetensors header has exactly dtype (a known one), shape (sizes), data_offsets (two counts).",
        bad='{"w": {"dtype": "F31", "shape": [2], "data_offsets": [0, 8]}}',
        good='{"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}',
    ),
    Code(
        "AS616",
        "tensor out of place",
        "The data of a tensor must lie within the file and be as long as its dtype and shape say. Truncated files "
        "look like this too.",
        bad='{"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 80]}}',
        good='{"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}',
    ),
    Code(
        "AS617",
        "tensors overlap or leave holes",
        "The tensors of a safetensors file must cover its data exactly.",
        bad='{"a": {..., "data_offsets": [0, 8]}, "b": {..., "data_offsets": [4, 12]}}',
        good='{"a": {..., "data_offsets": [0, 8]}, "b": {..., "data_offsets": [8, 16]}}',
    ),
    Code(
        "AS618",
        "unsafe or malformed index",
        "`weight_map` of a *.safetensors.index.json maps tensor names to plain names of safetensors files beside it.",
        bad='{"weight_map": {"w": "../../other.safetensors"}}',
        good='{"weight_map": {"w": "model-00001-of-00002.safetensors"}}',
    ),
    Code(
        "AS619",
        "index and shards disagree",
        "A tensor is in two shards, or not in the one that the index names.",
        bad="the index of one model beside the shards of another",
        good="index and shards of one model",
    ),
    Code(
        "AS620",
        "an operator that cannot mix two streams",
        "In hosts of two streams (SD3, FLUX) one attention reads the image's tokens and the context's together and "
        "gives an output for each. Most operators can stand there, with maps for each stream; some have no place for a "
        "second one, and the message says why. `insert` puts them behind a block, on the image's tokens alone. "
        "In a host of no known family, the compiler refuses modules of which more than one output is read.",
        bad="- replace: blocks[3].joint_attn\n  with: {op: low_rank, rank: 64}",
        good="- replace: blocks[3].joint_attn\n  with: {op: local_attention, window: 8, layout: grid}",
    ),
    Code(
        "AS621",
        "a block that ends a stream runs again",
        "The last block of SD3 reads the context and gives none back, so nothing that reads it can stand behind: it "
        "can be dropped, or run beside others, but not twice.",
        bad="- repeat: blocks[-1]\n  times: 2",
        good="- repeat: blocks[-2]\n  times: 2",
    ),
    Code(
        "AS630",
        "output exists",
        "A compile writes a new folder, or replaces one that archspec itself made. Anything else under that name is "
        "left alone.",
        bad="archspec compile spec.yaml -o ~/photos",
        good="archspec compile spec.yaml -o out/dit-hyena",
    ),
    Code(
        "AS631",
        "no space left",
        "The disk, or the user's quota, cannot hold the result. Nothing stands under the final name.",
        bad="archspec compile spec.yaml -o /full/disk/out",
        good="archspec compile spec.yaml -o out --link",
    ),
    Code(
        "AS632",
        "cannot write",
        "The system refused to write a file of the result. Nothing stands under the final name.",
        bad="archspec compile spec.yaml -o /read-only/out",
        good="archspec compile spec.yaml -o out",
    ),
    Code(
        "AS633",
        "another run is writing",
        "Two runs may not write the same folder at the same time.",
        bad="archspec compile spec.yaml -o out & archspec compile spec.yaml -o out",
        good="archspec compile spec.yaml -o out",
    ),
    Code(
        "AS640",
        "not a compiled checkpoint",
        "What archspec compiles carries `archspec.lock.json`; this folder has none.",
        bad="archspec run ./host",
        good="archspec compile spec.yaml -o out && archspec run out",
    ),
    Code(
        "AS641",
        "malformed lock or instructions",
        "archspec.lock.json, plan.json, or the `archspec` entry of a config.json does not have the form that archspec "
        "writes. It was edited or damaged; compile the spec again.",
        bad='{"format": 1, "instructions": "none"}',
        good='{"format": 1, "instructions": [], ...}',
    ),
    Code(
        "AS642",
        "written by a later archspec",
        "The form of the lock, or an operator in it, is of a later version than this installation knows.",
        bad='{"format": 2, ...}',
        good='{"format": 1, ...}',
    ),
    Code(
        "AS643",
        "operator not installed",
        "The checkpoint names an operator that this installation does not have. No code is ever taken from a "
        "checkpoint.",
        bad='{"do": "install", "operator": "warp", ...}',
        good='{"do": "install", "operator": "hyena_x", ...}',
    ),
    Code(
        "AS644",
        "checkpoint and instructions disagree",
        "The tensors in the files are not those of the model that the config and its instructions describe: one is "
        "missing, unexpected, or has another shape.",
        bad="the config.json of one compile beside the safetensors of another",
        good="all files of one compile",
    ),
    Code(
        "AS645",
        "instructions do not fit the host",
        "An instruction names a module that the host does not have, or a list of another length.",
        bad='{"do": "relist", "path": "transformer_blocks", "length": 12, ...} on a host of 28 blocks',
        good='{"do": "relist", "path": "transformer_blocks", "length": 28, ...}',
    ),
    Code(
        "AS646",
        "content has changed",
        "A file of a compiled checkpoint no longer has the content that its lock records. `archspec show OUT --verify` "
        "reads every file and every tensor and names those that differ.",
        bad="a byte of model.safetensors changed after the compile",
        good="the files as they were compiled, or trained by `archspec run`",
    ),
    Code(
        "AS647",
        "artifact does not fit",
        "`init: {kind: artifact, from: FILE}` reads a safetensors file whose tensors are named as in the operator, or "
        "with the path of the site in front, and have its shapes.",
        bad="init: {kind: artifact, from: weights-of-a-wider-model.safetensors}",
        good="init: {kind: artifact, from: hyena.safetensors}",
    ),
    Code(
        "AS648",
        "base without weights",
        "A config is enough to validate a spec and to plan it; compiling copies the base's tensors, so its safetensors "
        "files must be there, unless `weights: random` has them drawn.",
        bad="base: ./config-only",
        good="base: {from: ./config-only, weights: random}",
    ),
    Code(
        "AS657",
        "nothing to imitate",
        "Fits and regressions, and finetuning with `distill_weight`, hold a part or the result against a teacher: the "
        "base. Random weights know nothing that is worth imitating; a trained model of the same sites may be named in "
        "their place.",
        bad="base: {from: ./host, weights: random}\ndistill: {samples: 512}",
        good="base: {from: ./host, weights: random, teacher: ./host}\ndistill: {samples: 512}",
    ),
    Code(
        "AS658",
        "a teacher of another kind",
        "What is imitated is said by the names of sites, so the `teacher` of a base with random weights must be of its "
        "class and have its sites, with weights.",
        bad="base: {from: ./dit-width-96, weights: random, teacher: ./dit-width-128}",
        good="base: {from: ./dit-width-96, weights: random, teacher: ./dit-width-96}",
    ),
    Code(
        "AS659",
        "packs on random weights",
        "A SkillPack holds what tuning changed of one base's weights; added to others it means nothing.",
        bad="base: {from: ./host, weights: random}\nattach: {packs: [sql.skillpack.safetensors]}",
        good="base: ./host\nattach: {packs: [sql.skillpack.safetensors]}",
    ),
    Code(
        "AS650",
        "a file that cannot be read as tensors",
        "`archspec convert` opens pickles with `weights_only`: whatever is not a tensor or a plain container is "
        "refused, since it would run code. A damaged file, and one without weights, ends here too.",
        bad="archspec convert whole-model.pt -o out      # torch.save(model)",
        good="archspec convert weights.pt -o out      # torch.save(model.state_dict())",
    ),
    Code(
        "AS651",
        "a published file with other tensors than its layout has",
        "Every tensor of the result must be in the file, with the right number of values, and every tensor of the file "
        "must have a place in the result.",
        bad="a DiT file without 'final_layer.linear.weight'",
        good="the file as it was published",
    ),
    Code(
        "AS652",
        "the number of heads is not known",
        "No shape of a DiT file shows into how many heads its width is cut. For the published widths it is known.",
        bad="archspec convert dit-width-96.pt -o out",
        good="archspec convert dit-width-96.pt --heads 3 -o out",
    ),
    Code(
        "AS653",
        "an unknown layout or module",
        "Files in the layout of DiT are understood, whose attention and MLP may be the published operators of arXiv "
        "2506.05340. A module is known by the names of its tensors; what no tensor shows must be told.",
        bad="archspec convert swa.pt -o out",
        good="archspec convert swa.pt --window 4 -o out",
    ),
    Code(
        "AS655",
        "a published config that is wrong, or not of this file",
        "An operator or parameter that does not exist, a file of parameters that is missing, blocks or sizes that the "
        "file of weights contradicts. The code that the config was written for fails late, or not at all.",
        bad="graft_indexes: [0, 2]      # the file has grafts in 1 and 3",
        good="graft_indexes: [1, 3]",
    ),
    Code(
        "AS656",
        "weights of a published config that would not be loaded, or to the wrong block",
        "`graft_weights` is a map from block to file. Of a list of maps the published code loads nothing, without a "
        "word; a file of another block it loads.",
        bad="graft_weights: [{1: block_1/best.pt}]",
        good="graft_weights: {1: block_1/best.pt}",
    ),
    Code(
        "AS662",
        "a candidate that fits no site",
        "Each candidate of `search` must fit at least one of the sites that are searched: slot, widths, heads, grid.",
        bad="search: {sites: blocks.mlp, candidates: [hyena_x], budget: [flops <= 0.9x]}",
        good="search: {sites: blocks.attn, candidates: [hyena_x], budget: [flops <= 0.9x]}",
    ),
    Code(
        "AS663",
        "a search that cannot be held to its budget",
        "A budget is an upper bound on what adds up over sites: params, flops, weights, latency. The host is searched "
        "as it is: edits are what the search gives.",
        bad="search: {sites: blocks.attn, candidates: [hyena_x], budget: [fd <= 1.1x]}",
        good="search: {sites: blocks.attn, candidates: [hyena_x], budget: [flops <= 0.9x]}",
    ),
    Code(
        "AS664",
        "nothing to search",
        "`archspec search` reads the `search` stanza of a spec.",
        bad="archspec search specs/examples/digits.yaml -o found.yaml",
        good="search: {sites: blocks.attn, candidates: [hyena_x], budget: [flops <= 0.9x]}",
    ),
    Code(
        "AS660",
        "a probe that cannot be read",
        "`probe` names a JSON file that `archspec probe` wrote: of a format that this version reads, and with finite "
        "figures.",
        bad="probe: leaderboard.json",
        good="probe: dit.probe.json      # archspec probe HOST -o dit.probe.json",
    ),
    Code(
        "AS661",
        "a probe of another host",
        "What was measured of one model says nothing of another, or of the same one with other weights. The file holds "
        "the class of the host and the identity of its weights.",
        bad="probe: dit-256.probe.json      # the base is DiT-XL-2-512",
        good="probe: dit-512.probe.json",
    ),
    *packs.CODES,
    *merging.CODES,
)
