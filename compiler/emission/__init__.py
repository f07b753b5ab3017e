"""What a result consists of, and its writing."""
