"""Updates: what the learner tells the log of its steps, and of the votes that it used."""
