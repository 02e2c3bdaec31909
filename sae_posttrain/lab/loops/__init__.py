"""The miniature world of loops: its model sometimes loops, and RL with steered rollouts reduces this."""
