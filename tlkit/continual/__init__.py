"""What constrains and extends a network, and what that costs: anchors, importance, forgetting."""
