"""Choosing an operator for each site under a budget: priced, scored site by site, solved exactly, written as a spec.

price    every candidate at all of its sites: proved, and priced as a compile would
score    what each replacement alone does to the host's answer (archspec.runtime.probing.replacement)
solve    the sum of scores made least within the budget, by a solver of integer programs
write    the choice as an ordinary spec
"""
