"""SkillPacks as data: the terms that a difference is encoded in, and the header of a pack. No torch."""
