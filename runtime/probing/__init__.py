"""Probes: what a host does at each of its sites, measured on the inputs of its own task and kept as a file.

measures   what can be measured, one line each
watch      sites of a running host seen from outside: what goes in, what comes out, what attends to what
gates      derivatives of the loss by what the sites do
locality   how much of attention stays near, without a matrix of all pairs
probe      the run over examples, and the file
"""
