"""From numbers to words: what a run's curves say, what theory expects, what the ablations measured."""
