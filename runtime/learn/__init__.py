"""How new parts learn from old ones: taps on the teacher, closed-form fits, regressions, finetuning.

    taps      one run of the host, the inputs and outputs of many sites
    cache     activations of a wave of sites, in 16 bits, in memory or on disk
    parts     what a task teaches: modules of the edited model beside the taps they imitate
    fit       read-outs and merges by least squares, no gradient step
    regress   each part to its teacher's output, by AdamW
    finetune  the whole model on its task, with accelerate

Nothing here knows of plans or folders; `runtime.execute` does.
"""
