"""Graph to Graph: each file holds one pass, named like the file. `registry.run` runs them."""
