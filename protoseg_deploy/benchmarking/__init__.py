"""How fast a runtime is, what memory it takes, and on which machine."""
