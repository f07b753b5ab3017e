"""Codes of the command line and of diff; see the table in `archspec.codes`."""

from __future__ import annotations

from archspec.codes.base import Code

CODES: tuple[Code, ...] = (
    Code(
        "AS801",
        "out of memory",
        "The machine, or the accelerator, has no memory left. Compiling streams tensors and needs little; running a "
        "plan holds the model, a batch and the activation cache at once, and all three have settings.",
        bad="distill: {batch: 4096, cache: 512GiB}",
        good="distill: {batch: 64, cache: 2GiB}",
    ),
    Code(
        "AS802",
        "no space left on the device",
        "A file could not be written. Results are written under a temporary name and published by renaming, so nothing "
        "half-written stands under a final name. `run`, `sweep` and `search` go on from what was finished; other "
        "commands begin again.",
        bad="archspec compile spec.yaml --out /full/disk/result",
        good="archspec compile spec.yaml --out /roomy/disk/result",
    ),
    Code(
        "AS803",
        "a file cannot be read or written",
        "The operating system refused a file: it does not exist, is a folder, or its permissions forbid the use.",
        bad="archspec validate missing.yaml",
        good="archspec validate spec.yaml",
    ),
    Code(
        "AS804",
        "another package named archspec is installed",
        "The unrelated distribution 'archspec' (CPU names, used by Spack and conda) installs the same import package "
        "and the same command as 'archspec-compiler'. Whichever is installed last overwrites the other, and "
        "uninstalling one tears both, so archspec refuses to run beside it.",
        bad="pip install archspec archspec-compiler",
        good="python -m venv .venv && .venv/bin/pip install archspec-compiler",
    ),
    Code(
        "AS805",
        "no such error code",
        "'archspec explain' knows the codes of 'archspec explain --list' only.",
        bad="archspec explain AS999",
        good="archspec explain AS301",
    ),
    Code(
        "AS806",
        "no spec found",
        "A folder or a pattern given to a command holds no spec: a file that ends in .yaml, .yml or .arch. A command "
        "that checks nothing would look like one that found nothing wrong.",
        bad="archspec validate 'specs/*.txt'",
        good="archspec validate specs",
    ),
    Code(
        "AS810",
        "git cannot give that revision",
        "`revision:path` is read from the git repository around the working directory. The revision must exist in it "
        "(a shallow clone in CI may lack it: fetch it first).",
        bad="archspec diff orign/main:specs/a.yaml specs/a.yaml",
        good="archspec diff origin/main:specs/a.yaml specs/a.yaml",
    ),
    Code(
        "AS811",
        "a spec without a base cannot be compared",
        "What a spec amounts to depends on its host: its sites, shapes and tensors. A spec that only serves others "
        "through `extends` names none.",
        bad="archspec diff shared.yaml shared.yaml  # neither names a base",
        good="archspec diff mlp-r3.yaml mlp-r6.yaml",
    ),
    Code(
        "AS812",
        "no values to compare",
        "--weights reads the tensors of both sides. A spec has none until it is compiled, and a host folder may hold "
        "its config alone.",
        bad="archspec diff spec.yaml out/result --weights",
        good="archspec diff specs/hosts/digits out/result --weights",
    ),
    Code(
        "AS813",
        "one member must be chosen",
        "A spec with a matrix stands for several. What works on one of them takes its labels; that of an axis with one "
        "value may be left out.",
        bad="archspec compile sweep.yaml",
        good="archspec compile sweep.yaml --member op=hyena_x,seed=0",
    ),
    Code(
        "AS814",
        "no such member",
        "--member takes axes and labels of their values, apart by commas: the names of named values, else their text.",
        bad="archspec plan sweep.yaml --member op=hyenax",
        good="archspec plan sweep.yaml --member op=hyena_x",
    ),
    Code(
        "AS815",
        "a sweep of many members",
        "Each member is compiled, taught and measured. More than 64 are rarely meant: say that these are.",
        bad="archspec sweep large.yaml -o out",
        good="archspec sweep large.yaml -o out --yes",
    ),
    Code(
        "AS816",
        "not the folder of this sweep",
        "A sweep writes into a new folder, or goes on in one that an earlier sweep of the same spec's name has made.",
        bad="archspec sweep sweep.yaml -o .",
        good="archspec sweep sweep.yaml -o out/sweep",
    ),
    Code(
        "AS817",
        "not a store of artifacts",
        "`--store` names a folder that an earlier sweep made as its store, or one that is new or empty.",
        bad="archspec sweep sweep.yaml -o out/sweep --store ~/photos",
        good="archspec sweep sweep.yaml -o out/sweep --store out/store",
    ),
    Code(
        "AS818",
        "the folder of a member is damaged",
        "A member's folder is a checkpoint like any other: something in it was edited, or cut off, since it was "
        "compiled. The sweep goes on with the others. Deleted, the folder is compiled again; its finished tasks are in "
        "the store of the sweep, and are not run again.",
        bad="truncate -s 100 out/sweep/members/op-mlp/plan.json && archspec sweep sweep.yaml -o out/sweep",
        good="rm -r out/sweep/members/op-mlp && archspec sweep sweep.yaml -o out/sweep",
    ),
    Code(
        "AS820",
        "a budget that no choice meets",
        "Whatever stands at the searched sites, the budget of the search is exceeded. The least that can be had is "
        "told, of each bound alone, or with the others held.",
        bad="budget: [flops <= 0.1x]      # the embeddings alone take more",
        good="budget: [flops <= 0.8x]",
    ),
    Code(
        "AS821",
        "files that diff does not compare",
        "A single file of safetensors is compared if it is a SkillPack, and with another pack. A pack beside a "
        "checkpoint is put on its base first; other files of weights are compared as the folders that they stand in, "
        "whose config says what the tensors are.",
        bad="archspec diff sql.skillpack.safetensors tuned",
        good="archspec attach base sql.skillpack.safetensors -o sql\narchspec diff sql tuned",
    ),
    Code(
        "AS822",
        "weights of different architectures",
        "--weights compares tensors of one name and shape. Models of different classes have none that mean the same.",
        bad="archspec diff llama qwen --weights",
        good="archspec diff llama qwen",
    ),
    Code(
        "AS823",
        "packs of different architectures",
        "Two packs are compared tensor by tensor. Packs whose bases are of different classes, or whose tensors of one "
        "name have different shapes, change nothing in common.",
        bad="archspec diff sql-llama.skillpack.safetensors sql-qwen.skillpack.safetensors",
        good="archspec diff sql-llama.skillpack.safetensors chat-llama.skillpack.safetensors",
    ),
    Code(
        "AS824",
        "an option that packs do not have",
        "--cost prices architectures and --weights and --spectrum read checkpoints. Of packs the "
        "differences are always read.",
        bad="archspec diff sql.skillpack.safetensors chat.skillpack.safetensors --cost",
        good="archspec diff sql.skillpack.safetensors chat.skillpack.safetensors",
    ),
    Code(
        "AS825",
        "the result would replace what it is made from",
        "A search writes a spec of its own, without `search`. Written over the spec that was searched, or over one "
        "that this extends, it would take the question away, and with it all other budgets.",
        bad="archspec search spec.yaml -o spec.yaml",
        good="archspec search spec.yaml -o found.yaml",
    ),
)
