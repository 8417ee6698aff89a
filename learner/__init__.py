"""What to learn: batches, reward model, PPO, SFT, checkpoints and the loop. The only room with torch."""
