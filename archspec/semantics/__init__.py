"""What a spec means on its host: sites, checks, instructions, and where each tensor of the result comes from."""
