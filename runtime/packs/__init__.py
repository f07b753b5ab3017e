"""SkillPacks: compressed differences between a tuned model and its base, read, checked, decoded and put on models.

A pack never holds a weight of the base. What it adds to a tensor is a sum of terms (`terms.py`), each of which encodes
what the ones before it left over. `docs/skillpack.md` is the format.
"""
