"""What a call costs in energy, and whether heat or a power limit slowed it down."""
