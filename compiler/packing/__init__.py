"""Making SkillPacks: how a difference is encoded, at what cost and error, and what is chosen under a budget."""
