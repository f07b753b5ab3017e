"""Feature grafts at run time: donors' features injected into attention, by an `archspec.injection.Injection`.

match, gates        which token of the target a donor's token stands for, and which are taken
positions           where donors' keys stand
attention           the arithmetic: more keys, other keys, statistics
store, donors       what donors have at a time: in the cache, along an inversion, noised, clean
session, choose     who stands in which row, and what each takes
apply, processors   one attention under an injection; hosts' forms of attention
hosts               how each family is called
injecting           the context that puts it all on a model and takes it off again
solvers             FireFlow, midpoint and Euler as schedulers of diffusers, and back in time
"""
