"""What can be written: declared fields, the Spec, selectors, expectations; tree to Spec; the JSON Schema."""
